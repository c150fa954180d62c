"""Maintenance of stored runs: inspect, complete, compare, move, remove."""
