"""Exact range, mean, standard deviation and percentiles of raw values.

Integers of 8 and 16 bits are counted, other values sorted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from minivess.formats.decode import Array

PERCENTILES = (0.5, 5.0, 25.0, 50.0, 75.0, 95.0, 99.5)
FEW_CLASSES = 16  # below it, looking for each is quicker than counting all
CHUNK = 1 << 19  # voxels counted at once; bincount widens them to 8 bytes, which stay in cache

Values = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class SortedValues:
    """Values of a volume in ascending order; NaN comes last."""

    values: Array
    counts: Counts | None = None  # how often each occurs; None: once

    @property
    def low(self) -> float:
        """The smallest value."""
        return float(self.values[0])

    @property
    def high(self) -> float:
        """The largest value, NaN where there is any."""
        return float(self.values[-1])

    @property
    def total(self) -> int:
        """Number of voxels."""
        return int(self.values.size if self.counts is None else self.counts.sum())

    def numbers(self) -> dict[str, Any]:
        """Return the intensity fields of `VolumeStats`."""
        mean = self._mean(lambda values: values)
        variance = self._mean(lambda values: (values - mean) ** 2)
        return {
            "intensity_min": self.low,
            "intensity_max": self.high,
            "intensity_mean": mean,
            "intensity_std": float(np.sqrt(variance)),
            "percentiles": {f"{q:g}": self._percentile(q) for q in PERCENTILES},
        }

    def _mean(self, function: Any) -> float:
        if self.counts is not None:
            return float((function(self.values.astype(np.float64)) * self.counts).sum()) / (
                self.total
            )
        parts = (
            function(self.values[start : start + CHUNK].astype(np.float64)).sum()
            for start in range(0, self.values.size, CHUNK)
        )
        return float(sum(parts)) / self.total

    def _percentile(self, q: float) -> float:
        """Interpolate linearly, as numpy does."""
        position = q / 100 * (self.total - 1)
        below = int(np.floor(position))
        first, second = self._at(below), self._at(min(below + 1, self.total - 1))
        return first + (second - first) * (position - below)

    def _at(self, place: int) -> float:
        if self.counts is None:
            return float(self.values[place])
        ends = np.cumsum(self.counts)
        return float(self.values[np.searchsorted(ends, place, side="right")])


def sort_values(image: Array) -> SortedValues:
    """Return the values of an array in ascending order."""
    flat = image.ravel(order="K")
    if flat.dtype.kind == "b":
        flat = flat.view(np.uint8)
    if flat.dtype.kind not in "iu" or flat.dtype.itemsize > 2:
        return SortedValues(np.sort(flat))
    counts = _counts(flat)
    values = np.arange(counts.size, dtype=np.int64)
    if flat.dtype.kind == "i":  # counted by their bits: negative ones are the upper half
        half = counts.size // 2
        counts, values = np.roll(counts, half), values - half
    present = counts > 0
    return SortedValues(values[present], counts[present])


def _counts(flat: Array) -> Counts:
    """Count each bit pattern of 8 or 16 bit integers."""
    if flat.dtype.itemsize == 2:
        return _words(flat.view(np.uint16))
    even = flat.size - flat.size % 2  # two at a time: half the work
    pairs = _words(flat[:even].view(np.uint16)).reshape(256, 256)
    last = np.bincount(flat[even:].view(np.uint8), minlength=256)
    return np.asarray(pairs.sum(axis=0) + pairs.sum(axis=1) + last)


def _words(flat: npt.NDArray[np.uint16]) -> Counts:
    counts = np.zeros(1 << 16, dtype=np.int64)
    for start in range(0, flat.size, CHUNK):
        counts += np.bincount(flat[start : start + CHUNK], minlength=counts.size)
    return counts


def present_values(classes: Array) -> tuple[int, ...]:
    """Return the whole numbers that occur, in ascending order."""
    low, high = int(classes.min()), int(classes.max())
    if high - low < FEW_CLASSES:
        return tuple(value for value in range(low, high + 1) if (classes == value).any())
    values = sort_values(classes)
    return tuple(
        int(v) for v in (np.unique(values.values) if values.counts is None else values.values)
    )
