"""Run a command that must not outlive the process that started it.

`python -m minivess.runtime.supervisor COMMAND...` ends COMMAND with all its descendants as soon
as standard input closes. The kernel closes that pipe for a parent that dies in any way, SIGKILL
included. BentoML's workers open sessions of their own, so a process group would not reach them.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
from types import FrameType

import psutil

PR_SET_CHILD_SUBREAPER = 36
GRACE_S = 5.0


def main(command: list[str]) -> int:
    """Run the command until it ends or standard input closes; returns its exit status."""
    for number in (signal.SIGINT, signal.SIGHUP):  # our parent's, which closes our input
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    _adopt_orphans()
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        while server.poll() is None:
            wanted, _, _ = select.select([sys.stdin], [], [], 0.2)
            if wanted and not os.read(sys.stdin.fileno(), 1):
                break
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        end(server)
    return server.returncode


def end(server: subprocess.Popen[bytes]) -> None:
    """End the command by SIGTERM, then kill what is left of it and its descendants."""
    family = psutil.Process().children(recursive=True)
    server.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        server.wait(GRACE_S)
    # The parent goes first: it would start its workers again.
    server.kill()
    server.wait()
    while left := [p for p in {*family, *psutil.Process().children(recursive=True)} if _alive(p)]:
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=1)
        family = []


def _alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    return False


def _adopt_orphans() -> None:
    """Workers whose parent was killed become our children (Linux), so that we can end them."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


def _leave(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
