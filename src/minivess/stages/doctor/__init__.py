"""Examine what a command needs before it runs: machine, output folder, stores, servers."""
