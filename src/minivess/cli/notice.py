"""A notice when a long command has ended: the terminal's bell, and a command of one's own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

LONG_S = 600.0


def give(words: Sequence[str], code: int, seconds: float) -> None:
    """Ring, and run MINIVESS_WHEN_DONE in a shell, after a command of ten minutes or more."""
    if seconds < LONG_S:
        return
    from minivess import config

    if sys.stderr.isatty():
        print(end="\a", file=sys.stderr, flush=True)  # noqa: T201
    if own := config.environment().when_done:
        told = config.child_environment(
            MINIVESS_COMMAND=" ".join(words), MINIVESS_EXIT_CODE=str(code),
            MINIVESS_SECONDS=f"{seconds:.0f}",
        )  # fmt: skip
        subprocess.run(own, shell=True, check=False, env=told, stdout=sys.stderr)
