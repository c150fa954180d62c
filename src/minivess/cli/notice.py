"""A notice when a long command has ended: the terminal's bell, and a command of one's own."""

from __future__ import annotations

import os
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
        sys.stderr.write("\a")
        sys.stderr.flush()
    if own := config.environment().when_done:
        told = {
            "MINIVESS_COMMAND": " ".join(words),
            "MINIVESS_EXIT_CODE": str(code),
            "MINIVESS_SECONDS": f"{seconds:.0f}",
        }
        subprocess.run(own, shell=True, check=False, env={**os.environ, **told}, stdout=sys.stderr)
