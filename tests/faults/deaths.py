"""A command that SIGKILL ends at a chosen call."""

from __future__ import annotations

from flows import cli
from tests.training.dying import die_at


def main(place: str, call: int, words: list[str]) -> int:
    """Let the n-th call of the function at `place` kill the process that runs the words."""
    die_at(place, call)
    return cli.main(words)
