"""Maintenance of stored runs: list, inspect, complete, copy, move, remove."""
