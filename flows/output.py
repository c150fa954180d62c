"""Output whose reader is gone: a worker that died, `head` that has enough. Work goes on."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from typing import TextIO


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
        stream.write(f"{text}\n")
        stream.flush()
    except OSError as error:
        if error.errno != errno.ENOSPC:
            unheard()
