"""Format lists, counts, durations and shapes for people, and names for other systems."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import islice


def some(names: Iterable[object], most: int) -> str:
    """The first names, and whether there are more."""
    first = [str(name) for name in islice(names, most + 1)]
    return ", ".join(first[:most]) + (", ..." if len(first) > most else "")


def several(number: int, noun: str, verb: str = "") -> str:
    """`1 family`, `2 families`; with a verb in the plural, `1 run waits`, `2 runs wait`."""
    if number != 1:
        noun = (
            f"{noun[:-1]}ies"
            if noun.endswith("y")
            else f"{noun}{'es' if noun.endswith('s') else 's'}"
        )
    elif verb:
        verb = {"are": "is", "were": "was"}.get(verb, f"{verb}s")
    return f"{number} {noun} {verb}".rstrip()


def three_decimals(value: float, sign: str = "") -> str:
    """`0.842`, or `+0.842` with `+` as sign; a value that is rounded to 0 has no minus."""
    return f"{round(value, 3) + 0.0:{sign}.3f}"


def format_duration(seconds: float) -> str:
    """`12 s`, `3.5 min`, `2.1 h`."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return "<1 s" if 0 < seconds < 0.5 else f"{seconds:.0f} s"


def format_range(low: float, high: float) -> str:
    """Durations in seconds: `2.1 to 2.9 min`, `50 s to 1.2 min`."""
    ends = format_duration(low), format_duration(high)
    if ends[0].split()[1] == ends[1].split()[1]:
        return ends[1] if ends[0] == ends[1] else f"{ends[0].split()[0]} to {ends[1]}"
    return f"{ends[0]} to {ends[1]}"


def format_shape(shape: Iterable[int]) -> str:
    """`64x64x5`."""
    return "x".join(map(str, shape))


def first_of(items: Sequence[object], most: int) -> str:
    """`a, b and 3 more`."""
    rest = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(map(str, items[:most])) + rest


def table(rows: Sequence[Sequence[object]]) -> list[str]:
    """Lines of columns, each as wide as its widest cell; the last one is not filled up."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in cells]


def format_size(size: float) -> str:
    """`12 kB`, `3.4 MB`, `1.2 GB`."""
    for unit, of in (("GB", 1e9), ("MB", 1e6)):
        if size >= of:
            return f"{size / of:.1f} {unit}"
    return f"{size / 1e3:.0f} kB"


def slug(text: str) -> str:
    """A name of lower-case letters, digits, `-` and `_`, as Prefect Variables take it."""
    return re.sub(r"[^a-z0-9_-]+", "-", text.lower()).strip("-")


def dashed(text: str) -> str:
    """A name of lower-case letters, digits and `-`, as Prefect's artifacts take it."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
