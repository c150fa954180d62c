"""Means over volumes with bootstrap confidence intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from minivess.config import EvaluationConfig
from minivess.contracts import Interval

Values = Sequence[float | None]
Groups = Sequence[str | None]
_CHUNK = 1 << 22  # random numbers drawn at once, so that many volumes do not fill memory


def interval(
    values: Values, *, config: EvaluationConfig, seed: int = 0, groups: Groups | None = None
) -> Interval:
    """The mean with its percentile bootstrap interval over volumes.

    With `groups`, whole groups are resampled, because volumes of one animal are not independent
    (Field and Welsh 2007). Undefined values are left out, `n` counts the others; a single
    volume or group has a mean but no interval.
    """
    kept = [i for i, value in enumerate(values) if value is not None and np.isfinite(value)]
    data = np.array([values[i] for i in kept], dtype=np.float64)
    level, n = config.ci_level, len(kept)
    if not n:
        return Interval(mean=None, lower=None, upper=None, level=level, n=0)
    sums, counts = _clusters(data, [groups[i] if groups else None for i in kept])
    if len(sums) < 2:
        return Interval(mean=float(data.mean()), lower=None, upper=None, level=level, n=n)
    means = _resampled(sums, counts, config.bootstrap_n, seed)
    lower, upper = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(
        mean=float(data.mean()), lower=float(lower), upper=float(upper), level=level, n=n
    )


def difference(
    a: Values,
    b: Values,
    *,
    config: EvaluationConfig,
    seed: int = 0,
    groups: Groups | None = None,
) -> Interval:
    """The mean of `a - b` over the same volumes, with its interval; pairs need both values."""
    pairs = [
        None if left is None or right is None else left - right
        for left, right in zip(a, b, strict=True)
    ]
    return interval(pairs, config=config, seed=seed, groups=groups)


def _clusters(
    data: NDArray[np.float64], groups: Groups
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum and size of each group; a volume without a group stands alone."""
    names = [(index, None) if group is None else (-1, group) for index, group in enumerate(groups)]
    order = {name: position for position, name in enumerate(dict.fromkeys(names))}
    member = [order[name] for name in names]
    sums = np.bincount(member, weights=data).astype(np.float64)
    return sums, np.bincount(member).astype(np.float64)


def _resampled(
    sums: NDArray[np.float64], counts: NDArray[np.float64], n: int, seed: int
) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    rows = max(1, _CHUNK // len(sums))
    means = []
    for start in range(0, n, rows):
        drawn = rng.integers(0, len(sums), size=(min(rows, n - start), len(sums)))
        means.append(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    return np.concatenate(means)
