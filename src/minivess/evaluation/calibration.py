"""Calibration of probabilities voxel by voxel: reliability, its expected error, temperature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from minivess.contracts import IGNORED, Reliability, Spacing

Probabilities = NDArray[np.float32]
SAMPLED = 5000
"""Voxels of a volume near walls, and as many elsewhere; each stands for several."""
BINS = 10
PARTS = 5
WALL = 2.0
"""Edges of the finest voxel axis within which a voxel is near a wall."""
LEAST = 0.5 / 255
"""Probabilities are kept in 255 steps; a temperature needs them above 0."""


class Voxels(NamedTuple):
    """Annotated voxels, of one volume or of several."""

    probabilities: Probabilities
    """(N, C)"""
    truth: NDArray[np.int64]
    near: NDArray[np.bool_]
    """Near a wall."""
    weights: NDArray[np.float64]
    """How many voxels each stands for."""


def sample(probabilities: Probabilities, truth: NDArray[np.uint8], spacing: Spacing) -> Voxels:
    """Draw voxels of a volume: probabilities (C, X, Y, Z), class indices (X, Y, Z)."""
    annotated, near = truth != IGNORED, near_walls(truth, spacing)
    rng, places, weights = np.random.default_rng(0), [], []
    for stratum in (near & annotated, ~near & annotated):
        found = np.flatnonzero(stratum)
        drawn = rng.permutation(found)[:SAMPLED]
        places.append(drawn)
        weights.append(np.full(len(drawn), len(found) / max(len(drawn), 1)))
    at = np.concatenate(places)
    flat = probabilities.reshape(len(probabilities), -1)
    return Voxels(
        flat[:, at].T, truth.ravel()[at].astype(np.int64), near.ravel()[at], np.concatenate(weights)
    )


def near_walls(truth: NDArray[np.uint8], spacing: Spacing) -> NDArray[np.bool_]:
    """Return the voxels in whose neighbourhood there is another class."""
    from scipy import ndimage

    size = [1 + 2 * round(WALL * min(spacing) / edge) for edge in spacing]
    known = np.where(truth == IGNORED, 0, truth)
    found: NDArray[np.bool_] = ndimage.maximum_filter(known, size) != ndimage.minimum_filter(
        known, size
    )
    return found


def joined(parts: Sequence[Voxels]) -> Voxels:
    """Put the voxels of several volumes together."""
    return Voxels(*(np.concatenate(each) for each in zip(*parts, strict=True)))


def temperature(voxels: Voxels) -> float:
    """Return the temperature of the highest likelihood; its logarithm is searched."""
    from scipy import optimize

    logs = np.log(voxels.probabilities.clip(LEAST))
    # Relative to the class that is true, so that its own logit is 0.
    logs -= logs[np.arange(len(logs)), voxels.truth][:, None]

    def loss(log_temperature: float) -> float:
        spread = np.exp(logs * np.float32(np.exp(-log_temperature))).sum(axis=1)
        return float(voxels.weights @ np.log(spread))

    found = optimize.minimize_scalar(
        loss, bounds=(-2, 3), method="bounded", options={"xatol": 1e-3}
    )
    return float(np.exp(found.x))


def scaled(probabilities: Probabilities, by: float, axis: int = -1) -> Probabilities:
    """Return probabilities with their logits divided by a temperature; classes along `axis`."""
    from scipy import special

    found: Probabilities = special.softmax(np.log(probabilities.clip(LEAST)) / by, axis=axis)
    return found


def judge(
    units: Sequence[Voxels], classes: Sequence[int]
) -> tuple[float, tuple[float, ...], tuple[Reliability, ...]]:
    """Fit the temperature, and judge it in parts that did not fit it.

    Args:
        units: volumes or groups; a part is made of whole ones.
        classes: label value of each class, background first.

    Returns:
        The temperature of all, of each part, and the reliability of each foreground class.
    """
    order = [place % PARTS for place in range(len(units))]
    parts: list[float] = []
    held = [one.probabilities for one in units]
    for part in sorted(set(order)) if len(units) > 1 else ():
        others = [one for one, own in zip(units, order, strict=True) if own != part]
        parts.append(temperature(joined(others)))
        for place in range(part, len(units), PARTS):
            held[place] = scaled(held[place], parts[-1])
    voxels = joined(units)
    found = [
        _reliability(voxels, np.concatenate(held), index, value, near=near)
        for index, value in enumerate(classes)
        if index
        for near in (False, True)
    ]
    return temperature(voxels), tuple(parts), tuple(found)


def _reliability(
    voxels: Voxels, held: Probabilities, index: int, value: int, *, near: bool
) -> Reliability:
    inside = voxels.near if near else np.ones(len(voxels.near), dtype=bool)
    hits, weights = (voxels.truth == index)[inside], voxels.weights[inside]
    bins = _bins(voxels.probabilities[inside, index], hits, weights)
    return Reliability(
        label=value,
        region="near walls" if near else "everywhere",
        error=_error(bins),
        scaled_error=_error(_bins(held[inside, index], hits, weights)),
        bins=tuple((float(said), float(is_so), float(share)) for said, is_so, share in bins),
    )


def _bins(
    said: NDArray[np.float32], hits: NDArray[np.bool_], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Mean probability, share of hits, share of the voxels of each bin that is not empty."""
    place = np.minimum((said * BINS).astype(int), BINS - 1)
    sums = [np.bincount(place, weights * factor, BINS) for factor in (said, hits, 1.0)]
    means, shares, total = (each[sums[2] > 0] for each in sums)
    return np.stack([means / total, shares / total, total / weights.sum()], axis=1)


def _error(bins: NDArray[np.float64]) -> float:
    return float((np.abs(bins[:, 0] - bins[:, 1]) * bins[:, 2]).sum())
