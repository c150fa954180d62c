"""Output whose reader is gone: a worker that died, `head` that has enough. Work goes on."""

from __future__ import annotations

import os
from typing import TextIO


def unheard() -> None:
    """From now on, what is printed goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(nowhere, descriptor)
    os.close(nowhere)


def tell(stream: TextIO, text: str) -> None:
    """Print a line at once."""
    try:
        stream.write(f"{text}\n")
        stream.flush()
    except BrokenPipeError:
        unheard()
