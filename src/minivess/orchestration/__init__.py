"""Prefect behind one interface, the session of a command, and run ids handed between stages."""
