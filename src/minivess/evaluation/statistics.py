"""Means over volumes with confidence intervals from the bootstrap."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from minivess import names
from minivess.config import EvaluationConfig
from minivess.contracts import Interval

Values = Sequence[float | None]
Groups = Sequence[str | None]
Sums = NDArray[np.float64]
Range = tuple[float, float]
FEWEST = 5
"""Volumes or groups below which no interval holds its level; the lowest and highest are told."""
SMALLEST = 0.1
"""Share of the standard error that a resample has at least; equal values would have none."""
ANY: Range = (-math.inf, math.inf)
_CHUNK = 1 << 22  # random numbers drawn at once, so that many volumes do not fill memory


def range_of(metric: str) -> Range:
    """Between which values a metric lies."""
    return (0.0, math.inf if names.stem(metric) in names.LOWER_IS_BETTER else 1.0)


def interval(
    values: Values,
    *,
    config: EvaluationConfig,
    seed: int = 0,
    groups: Groups | None = None,
    within: Range = ANY,
) -> Interval:
    """The mean with its confidence interval, cut to the range `within` which values lie.

    With `groups`, whole groups are resampled, because volumes of one animal are not independent
    (Field and Welsh 2007). Undefined values are left out and counted. A single volume or group has
    a mean and no interval; of fewer than FEWEST the lowest and highest (group mean) are given, with
    the level at which these hold the median: 1 - 2^(1-n), whatever the distribution.
    """
    kept = [i for i, value in enumerate(values) if value is not None and np.isfinite(value)]
    data = np.array([values[i] for i in kept], dtype=np.float64)
    sums, counts = clusters(data, [groups[i] if groups else None for i in kept])
    method = "range" if len(sums) < FEWEST else config.ci_method
    lower, upper = _bounds(sums, counts, method, config, seed)
    return Interval(
        mean=float(data.mean()) if kept else None,
        lower=None if lower is None else max(lower, within[0]),
        upper=None if upper is None else min(upper, within[1]),
        level=1 - 2.0 ** (1 - len(sums)) if method == "range" and kept else config.ci_level,
        n=len(kept),
        n_undefined=len(values) - len(kept),
        n_units=len(sums),
        method=method,
    )


def difference(
    a: Values,
    b: Values,
    *,
    config: EvaluationConfig,
    seed: int = 0,
    groups: Groups | None = None,
    within: Range = ANY,
) -> Interval:
    """The mean of `a - b` over the same volumes, with its interval; pairs need both values."""
    pairs = [
        None if left is None or right is None else left - right
        for left, right in zip(a, b, strict=True)
    ]
    return interval(pairs, config=config, seed=seed, groups=groups, within=within)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number (Holm 1979)."""
    order = np.argsort(p_values)
    factors = len(p_values) - np.arange(len(p_values))
    ordered = np.asarray(p_values, dtype=np.float64)[order] * factors
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(ordered))
    return [float(value) for value in corrected]


def clusters(data: Sums, groups: Groups) -> tuple[Sums, Sums]:
    """Sum and size of each group, in an order that is theirs; a volume without one stands alone."""
    names = [(index, None) if group is None else (-1, group) for index, group in enumerate(groups)]
    order = {name: position for position, name in enumerate(dict.fromkeys(names))}
    member = [order[name] for name in names]
    sums = np.bincount(member, weights=data).astype(np.float64)
    counts = np.bincount(member).astype(np.float64)
    # Parents list volumes by fold and analyses by name; their intervals are the same.
    by_size = np.lexsort((sums, counts))
    return sums[by_size], counts[by_size]


def _bounds(
    sums: Sums, counts: Sums, method: str, config: EvaluationConfig, seed: int
) -> tuple[float | None, float | None]:
    if len(sums) < 2:
        return None, None
    if method == "range":
        return float((sums / counts).min()), float((sums / counts).max())
    ends = [(1 - config.ci_level) / 2, (1 + config.ci_level) / 2]
    means, errors = _resampled(sums, counts, config.bootstrap_n, seed)
    if method == "percentile":
        lower, upper = np.quantile(means, ends)
        return float(lower), float(upper)
    mean, error = mean_and_error(sums, counts)
    if not error:
        return float(mean), float(mean)
    low, high = np.quantile((means - mean) / np.maximum(errors, SMALLEST * error), ends)
    return float(mean - high * error), float(mean - low * error)


def mean_and_error(sums: Sums, counts: Sums) -> tuple[Sums, Sums]:
    """The mean over the members of groups, and its standard error (of a ratio), by rows."""
    total, n = counts.sum(axis=-1, keepdims=True), counts.shape[-1]
    mean = sums.sum(axis=-1, keepdims=True) / total
    spread = ((sums - mean * counts) ** 2).sum(axis=-1, keepdims=True)
    return mean[..., 0], np.sqrt(n / (n - 1) * spread)[..., 0] / total[..., 0]


def _resampled(sums: Sums, counts: Sums, n: int, seed: int) -> tuple[Sums, Sums]:
    """Means and standard errors of `n` resamples of the groups."""
    rng = np.random.default_rng(seed)
    rows = max(1, _CHUNK // len(sums))
    parts = []
    for start in range(0, n, rows):
        drawn = rng.integers(0, len(sums), size=(min(rows, n - start), len(sums)))
        parts.append(mean_and_error(sums[drawn], counts[drawn]))
    means, errors = zip(*parts, strict=True)
    return np.concatenate(means), np.concatenate(errors)
