"""Format numbers, intervals and names of metrics for reports."""

from __future__ import annotations

import math
from typing import NamedTuple

from minivess import names, units
from minivess.contracts import DatasetProfile, Interval
from minivess.text import three_decimals

DASH = "–"  # noqa: RUF001 (an en dash, for ranges)
UNDEFINED = DASH
MINUS = "−"  # noqa: RUF001 (a minus as wide as a plus)


class Unit(NamedTuple):
    """Unit of reported distances; a distance in header units is multiplied by `factor`."""

    name: str = "header units"
    factor: float = 1.0


HEADER = Unit()
REPORTED = (("m", 1e6), ("mm", 1e3), ("µm", 1.0), ("nm", 1e-3))
"""Units with their size in micron."""


class Metric(NamedTuple):
    """Label and meaning of a metric."""

    label: str
    meaning: str
    distance: Unit | None = None
    counted: bool = False
    """A mean number of errors."""

    @property
    def unit(self) -> str:
        """Unit of a distance; empty for a score."""
        return self.distance.name if self.distance else ""

    @property
    def factor(self) -> float:
        """Factor from stored to reported values."""
        return self.distance.factor if self.distance else 1.0

    @property
    def higher_is_better(self) -> bool:
        """Whether it is a score, not a distance or a number of errors."""
        return self.distance is None and not self.counted

    def number(self, value: float | None) -> str:
        """Format a value: three decimals of a score, three significant digits of others."""
        if self.higher_is_better or value is None:
            return number(value)
        return significant(value * self.factor)


METRICS = {
    names.PRIMARY: Metric("Compound", "half clDice, half capped MASD, which bad masks also get"),
    "dice": Metric("Dice", "overlap of the masks"),
    "cldice": Metric("clDice", "overlap of centre lines: topology"),
    "masd": Metric("MASD", "mean distance between the surfaces"),
    "hd95": Metric("HD95", "95th percentile of surface distances"),
    "nsd": Metric("NSD", "share of the surface within tolerance"),
    "f1": Metric("F1", "foreground objects or voxels found"),
    "betti0_error": Metric("Components", "difference in connected parts", counted=True),
    "betti1_error": Metric("Loops", "difference in loops", counted=True),
    "junction_error": Metric("Junctions", "difference in branching points", counted=True),
    "false_breaks": Metric("Breaks", "connections that the mask lacks", counted=True),
    "false_merges": Metric("Merges", "connections that are not there", counted=True),
}


def metric(name: str, unit: Unit = HEADER) -> Metric:
    """Return a metric by its name in MLflow; the label of `dice_class2` is `Dice, class 2`."""
    stem = names.stem(name)
    known = METRICS.get(stem, Metric(stem, ""))
    if stem in names.DISTANCES:
        known = known._replace(distance=unit)
    return (
        known._replace(label=f"{known.label}, class {name[len(stem) + 6 :]}")
        if name != stem
        else known
    )


def distance_unit(profile: DatasetProfile) -> Unit:
    """Return the largest unit in which the finest voxel is >= 0.1, if all headers use one unit."""
    found = {volume.unit for volume in profile.volumes}
    header = units.in_micron(found.pop()) if len(found) == 1 else None
    if header is None:
        return HEADER
    finest = header * min(min(volume.voxel_spacing) for volume in profile.volumes)
    name, size = next((one for one in REPORTED if finest >= 0.1 * one[1]), REPORTED[-1])
    return Unit(name, header / size)


def significant(value: float, digits: int = 3) -> str:
    """Format with significant digits, 0.000123 or 12.3; large numbers keep all integer digits."""
    if value == 0:
        return "0"
    return f"{value:.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"


def number(value: float | None, *, sign: str = "") -> str:
    """Format with three decimals and a typographic minus; a dash if the value is undefined.

    Args:
        sign: `+` marks positive values, too.
    """
    return UNDEFINED if value is None else three_decimals(value, sign).replace("-", MINUS)


def signed(value: float | None) -> str:
    """Format as `number` does, with a sign."""
    return number(value, sign="+")


def bounds(interval: Interval) -> str:
    """Format bounds: `95 % CI 0.801 to 0.866`, `range of 3 0.801 to 0.866`."""
    if interval.lower is None or interval.upper is None:
        return "no interval"
    return f"{interval.called} {number(interval.lower)} to {number(interval.upper)}"


def undefined(interval: Interval) -> str:
    """Return `2 undefined`, or an empty text."""
    return f"{interval.n_undefined} undefined" if interval.n_undefined else ""


def count(parameters: int) -> str:
    """Format a number of parameters: 812, 45.3 k, 1.19 M."""
    if parameters < 1000:
        return str(parameters)
    if parameters < 1_000_000:
        return f"{parameters / 1000:.3g} k"
    return f"{parameters / 1_000_000:.3g} M"


def shape(size: tuple[int, ...]) -> str:
    """Format a shape: `64 x 72 x 5`, with a multiplication sign."""
    return " × ".join(str(axis) for axis in size)  # noqa: RUF001


def spacing(size: tuple[float, ...], unit: Unit = HEADER) -> str:
    """Format voxel sizes in a unit: `0.6 x 0.6 x 1.5`, with a multiplication sign."""
    return " × ".join(f"{axis * unit.factor:.4g}" for axis in size)  # noqa: RUF001


def nth(rank: int) -> str:
    """Format a rank, 1 is the worst: `hardest`, `2nd hardest`."""
    if rank == 1:
        return "hardest"
    ending = {1: "st", 2: "nd", 3: "rd"}.get(rank % 10 if rank % 100 not in (11, 12, 13) else 0)
    return f"{rank}{ending or 'th'} hardest"
