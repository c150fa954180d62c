"""Numbers, intervals and names of metrics as people read them, everywhere the same."""

from __future__ import annotations

import math
from typing import NamedTuple

from minivess import names, units
from minivess.contracts import DatasetProfile, Interval

DASH = "–"  # noqa: RUF001 (an en dash, for ranges)
UNDEFINED = DASH
MINUS = "−"  # noqa: RUF001 (a minus as wide as a plus)


class Unit(NamedTuple):
    """The unit that distances are told in; one of the headers' units is `factor` of it."""

    name: str = "header units"
    factor: float = 1.0


HEADER = Unit()
TOLD = (("m", 1e6), ("mm", 1e3), ("µm", 1.0), ("nm", 1e-3))
"""Units with their size in micron."""


class Metric(NamedTuple):
    """How a metric is called and read."""

    label: str
    meaning: str
    distance: Unit | None = None

    @property
    def unit(self) -> str:
        """The unit of a distance; nothing for a score."""
        return self.distance.name if self.distance else ""

    @property
    def factor(self) -> float:
        """What a stored value is multiplied by."""
        return self.distance.factor if self.distance else 1.0

    @property
    def higher_is_better(self) -> bool:
        """Whether it is a score."""
        return self.distance is None

    def number(self, value: float | None) -> str:
        """A value with the digits that it deserves: three decimals, or digits of a distance."""
        if self.distance is None or value is None:
            return number(value)
        return significant(value * self.factor)


METRICS = {
    names.PRIMARY: Metric("Compound", "half clDice, half capped MASD"),
    "dice": Metric("Dice", "overlap of the masks"),
    "cldice": Metric("clDice", "overlap of centre lines: topology"),
    "masd": Metric("MASD", "mean distance between the surfaces"),
    "hd95": Metric("HD95", "95th percentile of surface distances"),
    "nsd": Metric("NSD", "share of the surface within tolerance"),
    "f1": Metric("F1", "foreground objects or voxels found"),
}


def metric(name: str, unit: Unit = HEADER) -> Metric:
    """A metric by its name in MLflow; `dice_class2` reads as `Dice, class 2`."""
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
    """The largest unit in which the finest voxel is not below 0.1, if the headers agree on one."""
    found = {volume.unit for volume in profile.volumes}
    header = units.in_micron(found.pop()) if len(found) == 1 else None
    if header is None:
        return HEADER
    finest = header * min(min(volume.voxel_spacing) for volume in profile.volumes)
    name, size = next((one for one in TOLD if finest >= 0.1 * one[1]), TOLD[-1])
    return Unit(name, header / size)


def significant(value: float, digits: int = 3) -> str:
    """Three digits that count, 0.000123 or 12.3; of a large number all before the point."""
    if value == 0:
        return "0"
    return f"{value:.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"


def number(value: float | None, digits: int = 3) -> str:
    """Fixed digits, a typographic minus, a dash where the value is undefined."""
    if value is None:
        return UNDEFINED
    return f"{value:.{digits}f}".replace("-", MINUS)


def signed(value: float | None, digits: int = 3) -> str:
    """As `number`, with a plus where it rises."""
    if value is None:
        return UNDEFINED
    return f"{value:+.{digits}f}".replace("-", MINUS)


def bounds(interval: Interval) -> str:
    """`95 % CI 0.801 to 0.866`, `range of 3 0.801 to 0.866`."""
    if interval.lower is None or interval.upper is None:
        return "no interval"
    return f"{interval.called} {number(interval.lower)} to {number(interval.upper)}"


def undefined(interval: Interval) -> str:
    """`2 undefined`, or nothing."""
    return f"{interval.n_undefined} undefined" if interval.n_undefined else ""


def count(parameters: int) -> str:
    """A parameter count: 812, 45.3 k, 1.19 M."""
    if parameters < 1000:
        return str(parameters)
    if parameters < 1_000_000:
        return f"{parameters / 1000:.3g} k"
    return f"{parameters / 1_000_000:.3g} M"


def shape(size: tuple[int, ...]) -> str:
    """`64 x 72 x 5` with a multiplication sign."""
    return " × ".join(str(axis) for axis in size)  # noqa: RUF001


def spacing(size: tuple[float, ...], unit: Unit = HEADER) -> str:
    """`0.6 x 0.6 x 1.5` in this unit, with a multiplication sign."""
    return " × ".join(f"{axis * unit.factor:.4g}" for axis in size)  # noqa: RUF001


def nth(rank: int) -> str:
    """Place in a row from the worst on: `hardest`, `2nd hardest`."""
    if rank == 1:
        return "hardest"
    ending = {1: "st", 2: "nd", 3: "rd"}.get(rank % 10 if rank % 100 not in (11, 12, 13) else 0)
    return f"{rank}{ending or 'th'} hardest"
