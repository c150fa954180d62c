"""Print for the user, with commands as the caller spells them; ignore a closed pipe."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import stat
import sys
from collections.abc import Iterable
from typing import TextIO

from minivess.verbs import spelled


class Lines(logging.Formatter):
    """Formatter that spells commands as the caller does."""

    def format(self, record: logging.LogRecord) -> str:
        """Format one line."""
        return spelled(super().format(record))


def discard(descriptors: Iterable[int] = (1, 2)) -> None:
    """Discard everything printed from now on."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in descriptors:
        os.dup2(nowhere, descriptor)
    os.close(nowhere)


def forget_terminal() -> None:
    """Discard output to a terminal that is gone (a lost connection): each write would fail."""
    devices = [one for one in (1, 2) if stat.S_ISCHR(os.fstat(one).st_mode)]
    discard(one for one in devices if not os.isatty(one))


def print_for(options: argparse.Namespace, text: str) -> None:
    """Print for a verb without a session; with --json, standard output is the object's."""
    print_line(sys.stderr if options.json else sys.stdout, text)


def print_line(stream: TextIO, text: str) -> None:
    """Print a line at once; drop it if the disk is full or the reader is gone.

    Letters that the terminal's encoding lacks are written as escapes.
    """
    coding = stream.encoding or "utf-8"
    shown = spelled(text).encode(coding, "backslashreplace").decode(coding)
    try:
        stream.write(f"{shown}\n")
        stream.flush()
    except OSError as error:
        if error.errno != errno.ENOSPC:
            discard()
