"""A command that SIGKILL ends at a chosen call, or whose terminal goes away."""

from __future__ import annotations

import fcntl
import os
import pty
import termios
import threading

from flows import cli
from tests.training.dying import die_at


def main(place: str, call: int, words: list[str]) -> int:
    """Let the n-th call of the function at `place` kill the process that runs the words."""
    die_at(place, call)
    return cli.main(words)


def lose_terminal(words: list[str]) -> int:
    """Run the words on a terminal that is closed, as by a lost connection, at the second epoch."""
    master, slave = pty.openpty()
    os.setsid()
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

    def watch(seen: bytes = b"") -> None:
        while b"epoch 2/" not in seen:
            seen += os.read(master, 1000)
        os.close(master)

    for number in (1, 2):
        os.dup2(slave, number)
    os.close(slave)
    threading.Thread(target=watch, daemon=True).start()
    return cli.main(words)
