"""Checks of an image array, for profile, predict, service and pyfunc alike.

Imports no reader, so that a model can be loaded where minivess is not installed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from minivess.contracts import Finding
from minivess.data.checks import CHECKS, finding
from minivess.errors import DataError
from minivess.text import several

FEW_SLICES = 5
FEW_VALUES, SAMPLE = 8, 1 << 16
LEVELS = 256  # grey values that float32 has to distinguish
Array = npt.NDArray[Any]


def check_array(array: Array, span: tuple[float, float] | None = None) -> list[Finding]:
    """Check voxels (X, Y, Z); `span` is their smallest and largest value, NaN where one is NaN."""
    if array.ndim != 3 or not array.size:
        problem = f"The image has shape {array.shape}; volumes have three axes, none empty."
        return [finding("wrong_dimensions", problem)]
    low, high = span or (float(array.min()), float(array.max()))
    return [*_slices(array.shape), *(_values(array, low, high) or _few_values(array))]


def check_reach(shape: Sequence[int], divisor: Sequence[int]) -> list[Finding]:
    """Refuse a volume that has a single voxel on the network's coarsest level."""
    if any(extent > step for extent, step in zip(shape, divisor, strict=True)):
        return []
    problem = f"The volume has shape {tuple(shape)}; the network needs more than {tuple(divisor)}."
    return [finding("wrong_dimensions", problem, remedy="take a larger volume")]


def admit(findings: Sequence[Finding]) -> list[Finding]:
    """Return the warnings, with remedies for a volume that is only segmented.

    Raises:
        DataError: an error is among the findings; it carries the code of the first.
    """
    for found in findings:
        if found.severity == "error":
            raise DataError(found.message, remedy=found.remedy, code=found.code)
    return [
        found.replace(remedy=CHECKS[found.code].at_prediction or found.remedy)
        for found in findings
        if found.severity == "warning"
    ]


def _values(array: Array, low: float, high: float) -> list[Finding]:
    if not (math.isfinite(low) and math.isfinite(high)):
        count = int(array.size - np.isfinite(array).sum())
        return [finding("non_finite", f"{several(count, 'voxel', 'are')} NaN or infinite.")]
    if low == high:
        return [finding("constant", f"Every voxel has the value {low:g}.")]
    largest = max(abs(low), abs(high))
    if max(largest, high - low) > float(np.finfo(np.float32).max):
        problem = f"Values reach {largest:g}; float32, which networks see, would be infinite."
        return [finding("non_finite", problem, remedy="divide the values, and store float32")]
    if np.can_cast(array.dtype, np.float32):
        return []
    if high - low < LEVELS * float(np.spacing(np.float32(largest))):
        problem = f"Values lie between {low!r} and {high!r}, where float32 hardly differs."
        return [finding("constant", problem, remedy="subtract the smallest value from all")]
    if array.dtype.itemsize > 4:
        problem = f"The image holds {array.dtype} values; networks see float32."
        return [finding("wide_dtype", problem)]
    return []


def _few_values(array: Array) -> Iterator[Finding]:
    """Find images with as few values as label maps have, in a sample of voxels."""
    sample = np.unique(array.ravel(order="K")[:: max(1, array.size // SAMPLE)])
    if array.size >= SAMPLE // 16 and len(sample) <= FEW_VALUES:
        shown = ", ".join(f"{value:g}" for value in sample)
        yield finding("few_values", f"Voxels have {several(len(sample), 'value')} only ({shown}).")


def _slices(shape: tuple[int, ...]) -> Iterator[Finding]:
    thinnest = min(shape)
    if thinnest == 1:
        yield finding("wrong_dimensions", f"The volume has a single slice, shape {shape}.")
    elif thinnest < FEW_SLICES:
        yield finding(
            "few_slices", f"An axis has {several(thinnest, 'slice')} only, shape {shape}."
        )
