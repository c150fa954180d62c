"""Numbers, intervals and names of metrics as people read them, everywhere the same."""

from __future__ import annotations

from typing import NamedTuple

from minivess import names
from minivess.contracts import DatasetProfile, Interval

DASH = "–"  # noqa: RUF001 (an en dash, for ranges)
UNDEFINED = DASH
MINUS = "−"  # noqa: RUF001 (a minus as wide as a plus)


class Metric(NamedTuple):
    """How a metric is called and read."""

    name: str
    label: str
    unit: str
    higher_is_better: bool
    meaning: str

    def number(self, value: float | None) -> str:
        """A value with the digits that it deserves: three for scores, two for distances."""
        return number(value, 2 if self.unit else 3)


METRICS = {
    metric.name: metric
    for metric in (
        Metric(names.PRIMARY, "Compound", "", True, "half clDice, half capped MASD"),
        Metric("dice", "Dice", "", True, "overlap of the masks"),
        Metric("cldice", "clDice", "", True, "overlap of centre lines: topology"),
        Metric("masd", "MASD", "header units", False, "mean distance between the surfaces"),
        Metric("hd95", "HD95", "header units", False, "95th percentile of surface distances"),
        Metric("nsd", "NSD", "", True, "share of the surface within tolerance"),
        Metric("f1", "F1", "", True, "foreground objects or voxels found"),
    )
}


def metric(name: str, unit: str = "") -> Metric:
    """A metric by its name in MLflow; `dice_class2` reads as `Dice, class 2`.

    Distances are told in `unit` where one is given.
    """
    base, _, number = name.partition("_class")
    known = METRICS.get(base, Metric(base, base, "", True, ""))
    if known.unit and unit:
        known = known._replace(unit=unit)
    return known._replace(name=name, label=f"{known.label}, class {number}") if number else known


def distance_unit(profile: DatasetProfile) -> str:
    """The unit of surface distances: that of the headers, where they agree on one."""
    units = {volume.unit for volume in profile.volumes}
    unit = units.pop() if len(units) == 1 else ""
    return {"micron": "µm", "um": "µm", "mm": "mm", "meter": "m"}.get(unit, "header units")


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
    """`95 % CI 0.801 to 0.866`."""
    if interval.lower is None or interval.upper is None:
        return "no interval"
    return f"{level(interval)} CI {number(interval.lower)} to {number(interval.upper)}"


def level(interval: Interval) -> str:
    """`95 %`."""
    return f"{interval.level * 100:g} %"


def counted(n: int, noun: str, plural: str = "") -> str:
    """`1 volume`, `12 volumes`; a noun that takes no plain s brings its plural."""
    return f"{n} {noun if n == 1 else plural or f'{noun}s'}"


def volumes(n: int) -> str:
    """`1 volume`, `12 volumes`."""
    return counted(n, "volume")


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


def spacing(size: tuple[float, ...], unit: str = "") -> str:
    """`0.6 x 0.6 x 1.5 um` with a multiplication sign."""
    return f"{' × '.join(f'{axis:.4g}' for axis in size)} {unit}".strip()  # noqa: RUF001


def nth(rank: int) -> str:
    """Place in a row from the worst on: `hardest`, `2nd hardest`."""
    if rank == 1:
        return "hardest"
    ending = {1: "st", 2: "nd", 3: "rd"}.get(rank % 10 if rank % 100 not in (11, 12, 13) else 0)
    return f"{rank}{ending or 'th'} hardest"
