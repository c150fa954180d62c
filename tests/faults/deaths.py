"""A command that SIGKILL ends at a chosen call: -m tests.faults.deaths PLACE CALL WORD ..."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from typing import Any


def main(place: str, call: int, words: list[str]) -> int:
    """Patch the function at `place`, so that its n-th call kills the process, and run the words."""
    from flows import cli

    module, _, name = place.rpartition(".")
    owner, calls = importlib.import_module(module), []
    original = getattr(owner, name)

    def deadly(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(owner, name, deadly)
    return cli.main(words)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), sys.argv[3:]))
