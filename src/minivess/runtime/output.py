"""What the user reads, commands in the caller's spelling; work goes on where nobody listens."""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Iterable
from typing import TextIO

from minivess.verbs import spelled


class Lines(logging.Formatter):
    """Log lines in the caller's spelling."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        return spelled(super().format(record))


def unheard(descriptors: Iterable[int] = (1, 2)) -> None:
    """From now on, what is printed goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in descriptors:
        os.dup2(nowhere, descriptor)
    os.close(nowhere)


def forget_terminal() -> None:
    """Print no more to a terminal that is gone (a lost connection): each write would fail."""
    devices = [one for one in (1, 2) if stat.S_ISCHR(os.fstat(one).st_mode)]
    unheard(one for one in devices if not os.isatty(one))


def tell(stream: TextIO, text: str) -> None:
    """Print a line at once; one that a full disk does not take is left out."""
    try:
        stream.write(f"{spelled(text)}\n")
        stream.flush()
    except OSError as error:
        if error.errno != errno.ENOSPC:
            unheard()
