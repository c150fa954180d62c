"""Workers of Prefect's pools, which tests start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from minivess.config import child_environment

CLONE = Path(__file__).resolve().parents[2]


@contextmanager
def working(pool: str, kind: str, log: Path, **variables: str) -> Iterator[None]:
    """A worker of a pool; it and what it started are ended afterwards."""
    words = ("prefect", "worker", "start", "-p", pool, "-t", kind)
    with log.open("ab") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", *words], cwd=CLONE, env=child_environment(**variables),
            stdout=said, stderr=said, start_new_session=True,
        )  # fmt: skip
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
