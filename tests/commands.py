"""The command line in processes of its own, each forked from one that has imported everything.

Seven seconds of imports are no behaviour; what a signal, a full memory or an exit code does to a
process is the same however the process began.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.context import ForkServerContext
from pathlib import Path

from minivess.cli import main as cli

LIMIT_S = 600.0
"""A machine with eight times too much to do takes minutes for seconds of work."""
Main = Callable[[list[str]], int]


def forks() -> ForkServerContext:
    """Processes forked from a server with `tests.loaded`; one server for all tests of a worker."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.loaded"])
    return context


class Command:
    """`minivess WORD ...` with these environment variables and no others."""

    def __init__(
        self,
        words: Sequence[str],
        variables: Mapping[str, str],
        log: Path,
        *,
        main: Main = cli.main,
    ) -> None:
        self._out, self._err = log.with_suffix(".out"), log.with_suffix(".err")
        for file in (self._out, self._err):
            file.write_text("")
        files = (self._out, self._err)
        self._process = forks().Process(
            target=_run, args=(main, list(words), dict(variables), files)
        )
        self._process.start()

    @property
    def out(self) -> str:
        """What it has written to standard output."""
        return self._out.read_text()

    @property
    def err(self) -> str:
        """What it has written to standard error."""
        return self._err.read_text()

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.is_alive()

    def wait_for(self, text: str) -> None:
        """Wait until it has written this to standard output."""
        end = time.monotonic() + LIMIT_S
        while text not in self.out:
            alive = self.alive or text in self.out
            assert alive and time.monotonic() < end, self.out + self.err  # noqa: PT018
            time.sleep(0.01)

    def send_signal(self, number: int) -> None:
        """What `kill -NUMBER` does."""
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def wait(self) -> int:
        """Its exit code, or minus the number of the signal that ended it."""
        self._process.join(LIMIT_S)
        assert self._process.exitcode is not None, self.out + self.err
        return self._process.exitcode


def _run(main: Main, words: list[str], variables: dict[str, str], files: tuple[Path, Path]) -> None:
    os.environ.clear()
    os.environ.update(variables)
    for number, file in zip((1, 2), files, strict=True):
        os.dup2(os.open(file, os.O_WRONLY | os.O_APPEND), number)
    sys.exit(main(words))
