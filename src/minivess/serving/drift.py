"""Whether new volumes differ from a reference: tests of each feature, and of all together.

Half of the level goes to Kolmogorov-Smirnov tests of the features, corrected by Holm; half to the
maximum mean discrepancy (Gretton 2012), whose distribution comes from permutations of reference
and new together. Bootstrapping the reference alone would call nearly everything drift.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import pdist, squareform
from scipy.stats import ks_2samp

from minivess.evaluation import statistics

Rows = npt.NDArray[np.float64]
LEVEL, PERMUTATIONS = 0.05, 999


class Drift(NamedTuple):
    """Corrected p-value of each feature, that of all together, and what is called drift."""

    features: dict[str, float]
    together: float
    level: float

    @property
    def drifted(self) -> tuple[str, ...]:
        """The features that drifted; `all together` stands for their joint distribution."""
        each = [name for name, p in self.features.items() if p <= self.level / 2]
        return (*each, *(["all together"] if self.together <= self.level / 2 else []))


def drift(reference: Rows, new: Rows, names: Sequence[str], *, level: float = LEVEL) -> Drift:
    """Compare two samples (N, F) and (M, F); false alarms are as rare as `level` says."""
    raw = [
        float(ks_2samp(reference[:, place], new[:, place]).pvalue) for place in range(len(names))
    ]
    corrected = statistics.holm(raw)
    return Drift(dict(zip(names, corrected, strict=True)), _discrepancy(reference, new), level)


def _discrepancy(reference: Rows, new: Rows) -> float:
    """Return the p-value of the maximum mean discrepancy with a Gaussian kernel."""
    both = np.concatenate([reference, new])
    spread = both.std(axis=0)
    both = (both - both.mean(axis=0))[:, spread > 0] / spread[spread > 0]
    if not both.size:
        return 1.0
    distances = pdist(both, "sqeuclidean")
    kernel = squareform(np.exp(-distances / (np.median(distances) or 1.0)))
    np.fill_diagonal(kernel, 1.0)
    generator, n = np.random.default_rng(0), len(reference)
    signs = np.concatenate([np.full(n, 1 / n), np.full(len(new), -1 / len(new))])

    def statistic(weights: Rows) -> float:
        return float(weights @ kernel @ weights)

    found = statistic(signs)
    shuffled = (statistic(generator.permutation(signs)) for _ in range(PERMUTATIONS))
    return (1 + sum(value >= found for value in shuffled)) / (1 + PERMUTATIONS)
