"""Heartbeat, timing and figures of a training; decides no weight."""
