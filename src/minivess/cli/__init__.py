"""The command line: parse the arguments, run one verb, return an exit code."""
