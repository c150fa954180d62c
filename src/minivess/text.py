"""Format lists, counts, durations and shapes for people, and names for other systems."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import islice


def some(names: Iterable[object], most: int) -> str:
    """The first names, and whether there are more."""
    first = [str(name) for name in islice(names, most + 1)]
    return ", ".join(first[:most]) + (", ..." if len(first) > most else "")


def several(number: int, noun: str) -> str:
    """`1 family`, `2 families`."""
    more = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number} {noun if number == 1 else more}"


def format_duration(seconds: float) -> str:
    """`12 s`, `3.5 min`, `2.1 h`."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def format_shape(shape: Iterable[int]) -> str:
    """`64x64x5`."""
    return "x".join(map(str, shape))


def first_of(items: Sequence[object], most: int) -> str:
    """`a, b and 3 more`."""
    rest = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(map(str, items[:most])) + rest


def slug(text: str) -> str:
    """A name of lower-case letters, digits, `-` and `_`, as Prefect Variables take it."""
    return re.sub(r"[^a-z0-9_-]+", "-", text.lower()).strip("-")


def dashed(text: str) -> str:
    """A name of lower-case letters, digits and `-`, as Prefect's artifacts take it."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
