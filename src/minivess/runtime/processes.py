"""Start child processes and end them with all their descendants."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import psutil

from minivess.runtime import liveness

Child = subprocess.Popen[bytes]
END_LIMIT_S = 20.0
LEFT: list[Child] = []
"""Children that outlive us: Python warns of one that is forgotten while it runs."""


@dataclass(frozen=True)
class Process:
    """A process, distinguishable from a later one with the same number."""

    pid: int
    started: str

    @property
    def alive(self) -> bool:
        """Whether it still runs on this host."""
        return liveness.started(self.pid) == self.started


def process_of(pid: int | None = None) -> Process:
    """A process that runs now; without a number this one."""
    pid = pid or os.getpid()
    return Process(pid, liveness.started(pid) or "ended")


@contextmanager
def running(
    words: Sequence[str],
    variables: Mapping[str, str],
    *,
    log: Path | None = None,
    folder: Path | None = None,
    stdin: int = subprocess.DEVNULL,
    limit_s: float = END_LIMIT_S,
) -> Iterator[Child]:
    """Run a command for the length of a `with` block; on leaving, end it in order.

    It leads a session of its own, so that Ctrl-C in the terminal reaches this process only.

    Args:
        variables: its complete environment.
        log: file for its output; None: where ours goes.
        limit_s: seconds between SIGTERM and SIGKILL.
    """
    with _begun(words, variables, log, folder, stdin) as child:
        try:
            yield child
        finally:
            if child.poll() is None:
                end(child.pid, limit_s)


def outliving(
    words: Sequence[str],
    variables: Mapping[str, str],
    *,
    log: Path,
    folder: Path,
    stdin: int = subprocess.DEVNULL,
) -> Child:
    """Start a command that goes on after this process, in a session of its own."""
    child = _begun(words, variables, log, folder, stdin)
    LEFT.append(child)
    return child


def _begun(
    words: Sequence[str],
    variables: Mapping[str, str],
    log: Path | None,
    folder: Path | None,
    stdin: int,
) -> Child:
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") if log else nullcontext() as stream:
        return subprocess.Popen(
            words,
            cwd=folder,
            env=variables,
            stdin=stdin,
            stdout=stream,
            stderr=subprocess.STDOUT if stream else None,
            start_new_session=True,
        )


def supervised(
    words: Sequence[str], variables: Mapping[str, str], log: Path
) -> AbstractContextManager[Child]:
    """Like `running`, for a command that must end even if this process is killed."""
    supervisor = (sys.executable, "-m", "minivess.runtime.supervisor")
    return running((*supervisor, *words), variables, log=log, stdin=subprocess.PIPE)


def end(pid: int, limit_s: float = END_LIMIT_S) -> None:
    """Send SIGTERM to a process group, and SIGKILL to what is left of it after `limit_s`."""
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
        os.killpg(pid, signal.SIGTERM)
    except (psutil.NoSuchProcess, ProcessLookupError):
        return
    _, left = psutil.wait_procs(family, timeout=limit_s)
    for stubborn in left:
        stubborn.kill()
