"""How lists and counts are written for people. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice


def some(names: Iterable[object], most: int) -> str:
    """The first names, and whether there are more."""
    first = [str(name) for name in islice(names, most + 1)]
    return ", ".join(first[:most]) + (", ..." if len(first) > most else "")


def several(number: int, noun: str) -> str:
    """`1 family`, `2 families`."""
    more = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number} {noun if number == 1 else more}"
