"""Real limits of memory: of one process, and of a control group in which the kernel kills."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from minivess.compute.hardware import control_groups

LIMITS = {"memory.max": "memory.current", "memory.limit_in_bytes": "memory.usage_in_bytes"}
INSIDE = """
import os, sys
open(sys.argv[1], "w").write(str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])
"""


@contextmanager
def memory_group() -> Iterator[Path]:
    """A control group of this test, or a skip where it may not make one."""
    own = control_groups("memory")
    group = own[0] / f"minivess-{uuid.uuid4().hex[:8]}" if own else Path("/nowhere")
    try:
        group.mkdir()
    except OSError:
        pytest.skip("this user may make no control groups")
    try:
        if not any((group / name).exists() for name in LIMITS):
            pytest.skip("control groups here limit no memory")
        yield group
    finally:
        group.rmdir()


def start_in(group: Path, words: list[str], environment: dict[str, str]) -> subprocess.Popen[str]:
    """Run Python inside a control group from its first line on."""
    return subprocess.Popen(
        [sys.executable, "-c", INSIDE, str(group / "cgroup.procs"), sys.executable, *words],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def starve(group: Path, process: subprocess.Popen[str]) -> None:
    """Leave a process what it has and no more, until the kernel kills it for the next page.

    It stands still meanwhile: a quick training would be over before it is starved.
    """
    limit, used = next((group / a, group / b) for a, b in LIMITS.items() if (group / a).exists())
    while process.poll() is None:
        process.send_signal(signal.SIGSTOP)
        with contextlib.suppress(OSError):  # version 1 refuses less than what is in use
            limit.write_text(used.read_text())
        process.send_signal(signal.SIGCONT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.05)
