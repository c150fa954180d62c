"""Processes, signals, output: what a program needs of its operating system."""
