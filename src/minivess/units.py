"""Units of length: their names in headers and settings, and conversion between them."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import cast

from minivess.contracts.record import Spacing

UNKNOWN = "unknown"
KEPT = {"micron": 1.0, "mm": 1e3, "meter": 1e6}  # the units that NIfTI has, in micron
PREFIXES = {"pico": 1e-6, "nano": 1e-3, "micro": 1.0, "milli": 1e3, "centi": 1e4, "deci": 1e5,
            "": 1e6}  # fmt: skip
IN_MICRON = {
    **{f"{p}{m}": size for p, size in PREFIXES.items()
       for m in ("meter", "metre", "meters", "metres")},
    "pm": 1e-6, "nm": 1e-3, "μm": 1.0, "um": 1.0, "mm": 1e3, "cm": 1e4, "dm": 1e5, "m": 1e6,
    "micron": 1.0, "microns": 1.0, "å": 1e-4, "angstrom": 1e-4, "angstroms": 1e-4, "thou": 25.4,
    "in": 25_400.0, "inch": 25_400.0, "inches": 25_400.0, '"': 25_400.0,
}  # fmt: skip
SYMBOLS = {"micron": "µm", "um": "µm", UNKNOWN: ""}
CASED = ("Mm", "Pm")  # megametre and petametre, neither of which is mm or pm


def in_micron(word: object) -> float | None:
    """Return the length of a unit in micron; None if the word names no unit of length."""
    # ImageJ escapes what is not ASCII; the micro sign and the Greek letter are one to NFKC.
    text = re.sub(r"\\u([0-9a-fA-F]{4})", lambda m: chr(int(m[1], 16)), str(word or "").strip())
    return None if text in CASED else IN_MICRON.get(unicodedata.normalize("NFKC", text).lower())


def common_unit(words: Sequence[object]) -> tuple[tuple[float, ...], str]:
    """Return a factor for each axis and the unit that all have after it; 0 for an axis without one.

    Without any length the sizes stay as they are, in the unit `unknown`.
    """
    sizes = [in_micron(word) for word in words]
    if not any(sizes):
        return (1.0,) * len(sizes), UNKNOWN
    alike = [unit for unit, size in KEPT.items() if all(have in (size, None) for have in sizes)]
    unit = alike[0] if alike else "micron"
    return tuple((size or 0.0) / KEPT[unit] for size in sizes), unit


def positive_spacing(steps: Sequence[float]) -> tuple[Spacing, bool]:
    """Return the steps, 1 in place of any that is not finite and above 0, and whether all are."""
    good = [math.isfinite(step) and step > 0 for step in steps]
    kept = (float(step) if fine else 1.0 for step, fine in zip(steps, good, strict=True))
    return cast(Spacing, tuple(kept)), all(good)


def symbol(unit: str) -> str:
    """Return the symbol of a unit in figures; empty if it is unknown."""
    return SYMBOLS.get(unit, unit)


def spacing_text(steps: Iterable[float], unit: str) -> str:
    """Format a voxel size: 0.5 x 0.5 x 2 micron."""
    size = " x ".join(f"{step:.4g}" for step in steps)
    return f"{size} {'(unit not stated)' if unit == UNKNOWN else unit}".rstrip()
