"""Signals that ask a process to end: SIGTERM, and SIGHUP when its terminal is gone.

Both unwind as Ctrl-C does, so that servers are ended and runs are closed.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from minivess.runtime import output

ENDING = (signal.SIGTERM, signal.SIGHUP)


class Terminated(SystemExit):
    """A signal asked this process to end; the code is 128 and its number."""

    def __str__(self) -> str:
        return f"ended by {signal.Signals(int(str(self.code)) - 128).name}"


@contextmanager
def terminable() -> Iterator[None]:
    """Let these signals raise `Terminated`, unless they are handled or (nohup) ignored."""
    main = threading.current_thread() is threading.main_thread()
    ours = [one for one in ENDING if main and signal.getsignal(one) is signal.SIG_DFL]
    for one in ours:
        signal.signal(one, leave)
    try:
        yield
    finally:
        for one in ours:
            signal.signal(one, signal.SIG_DFL)


def leave(number: int, _frame: object) -> NoReturn:
    """Handle one of the signals."""
    output.forget_terminal()
    raise Terminated(128 + number)
