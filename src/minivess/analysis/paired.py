"""Paired comparisons over volumes: exact test, effect size, smallest difference that could show.

Volumes of one group are one unit of evidence: a test flips the sign of whole groups, and an effect
is that of group means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from minivess.config import EvaluationConfig, ExperimentConfig
from minivess.contracts import Comparison, FoldModel, Interval, Scores
from minivess.evaluation import statistics
from minivess.names import LOWER_IS_BETTER, stem

Array = NDArray[np.float64]
ENUMERATED = 16
"""Units up to which every pattern of signs is tried; above, FLIPS random ones and the observed."""
FLIPS = 20_000
POWER = 0.8
QUANTILES = 2000


def every_pair(
    judged: Sequence[Scores], config: ExperimentConfig, models: Sequence[FoldModel] = ()
) -> tuple[Comparison, ...]:
    """Compare every pair in `analysis.metric`; p-values are corrected for all of them (Holm)."""
    folds = {case: model.spec.fold.index for model in models for case in model.spec.fold.val}
    found = [compare(a, b, config, folds) for a, b in combinations(judged, 2)]
    corrected = holm([one.p_value for one in found])
    return tuple(one.replace(p_holm=p_value) for one, p_value in zip(found, corrected, strict=True))


def compare(
    one: Scores, against: Scores, config: ExperimentConfig, folds: Mapping[str, int] | None = None
) -> Comparison:
    """Compare two families or ensembles over the volumes on which both have a value.

    Args:
        folds: case -> fold that validated it.
    """
    metric = config.analysis.metric
    mine, theirs = values(one, metric), values(against, metric)
    groups = {volume.case: volume.group for volume in one.volumes}
    gaps = {
        case: value - other
        for case, value in mine.items()
        if value is not None and (other := theirs.get(case)) is not None
    }
    apart = [groups[case] for case in gaps]
    reach = statistics.range_of(metric)[1]
    difference = statistics.interval(
        list(gaps.values()), config=config.evaluation, groups=apart, within=(-reach, reach)
    )
    sums, counts = statistics.clusters(np.array(list(gaps.values())), apart)
    gains = -sums if lower_is_better(metric) else sums
    return Comparison(
        name=one.name,
        against=against.name,
        difference=difference,
        better=int((gains > 0).sum()),
        worse=int((gains < 0).sum()),
        p_value=sign_flip(sums),
        effect=effect(sums / counts, config.evaluation),
        detectable=detectable(sums, counts, config.evaluation),
        fold_spread=_fold_spread(gaps, folds or {}),
    )


def lower_is_better(metric: str) -> bool:
    """Whether a metric is a distance or a number of errors."""
    return stem(metric) in LOWER_IS_BETTER


def values(judged: Scores, metric: str) -> dict[str, float | None]:
    """Return case -> value of one metric."""
    return {volume.case: volume.values.get(metric) for volume in judged.volumes}


def sign_flip(sums: Array) -> float | None:
    """Two-sided p-value of the sign-flip test; exact if differences are symmetric about 0.

    Args:
        sums: sum of the differences of each independent unit.
    """
    n = len(sums)
    if n < 2:
        return None
    if n <= ENUMERATED:
        # The other half of the patterns is the mirror image.
        bits = np.arange(2 ** (n - 1))[:, None] >> np.arange(n) & 1
        extra = 0
    else:
        bits = np.random.default_rng(0).integers(0, 2, size=(FLIPS, n))
        extra = 1
    flipped = np.abs((1 - 2 * bits) @ sums)
    as_far = np.count_nonzero(flipped >= abs(sums.sum()) * (1 - 1e-12))
    return float((as_far + extra) / (len(flipped) + extra))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Correct p-values for their number; undefined ones are not counted and stay undefined."""
    known = iter(statistics.holm([p for p in p_values if p is not None]))
    return [None if p is None else next(known) for p in p_values]


def effect(means: Array, config: EvaluationConfig) -> Interval | None:
    """Standardised difference, mean / standard deviation, with its noncentral t interval.

    None below FEWEST units, and where all differences are equal.
    """
    n = len(means)
    if n < statistics.FEWEST or np.ptp(means) < 1e-12:
        return None
    d = float(means.mean() / means.std(ddof=1))
    t = d * np.sqrt(n)
    ends = [(1 + config.ci_level) / 2, (1 - config.ci_level) / 2]
    lower, upper = (_noncentrality(t, n - 1, share) / np.sqrt(n) for share in ends)
    return Interval(
        mean=d, lower=lower, upper=upper, level=config.ci_level, n=n, n_units=n,
        method="noncentral t",
    )  # fmt: skip


def _noncentrality(t: float, freedom: int, share: float) -> float:
    """The noncentrality under which `share` of the t values lie below t."""
    from scipy import optimize, special, stats

    # The mean over the quantiles of the estimated deviation; scipy's nct is NaN for some large t.
    quantiles = (np.arange(QUANTILES) + 0.5) / QUANTILES
    deviations = np.sqrt(stats.chi2.ppf(quantiles, freedom) / freedom)

    def excess(centre: float) -> float:
        return float(special.ndtr(t * deviations - centre).mean() - share)

    reach = 10 + 2 * abs(t)
    return float(optimize.brentq(excess, t - reach, t + reach))


def detectable(sums: Array, counts: Array, config: EvaluationConfig) -> float | None:
    """Smallest true difference whose interval would exclude 0 in 80 % of samples of this size."""
    from scipy import stats

    if len(sums) < statistics.FEWEST:
        return None
    _, error = statistics.mean_and_error(sums, counts)
    quantiles = stats.t.ppf([(1 + config.ci_level) / 2, POWER], len(sums) - 1)
    return float(error * quantiles.sum()) or None


def seed_noise(
    families: Sequence[Scores], models: Sequence[FoldModel], metric: str
) -> float | None:
    """Standard deviation of the difference between two seeds of one network and loss.

    Pooled over all combinations with several seeds; None without one.
    """
    recipes = {model.family: (model.spec.model, model.spec.loss.name) for model in models}
    by_recipe: dict[object, list[float]] = {}
    for one in families:
        interval = one.intervals.get(metric)
        if interval is not None and interval.mean is not None:
            by_recipe.setdefault(recipes.get(one.name, one.name), []).append(interval.mean)
    repeated = [means for means in by_recipe.values() if len(means) > 1]
    if not repeated:
        return None
    squares = sum(float(np.sum((np.array(means) - np.mean(means)) ** 2)) for means in repeated)
    return float(np.sqrt(2 * squares / sum(len(means) - 1 for means in repeated)))


def _fold_spread(gaps: Mapping[str, float], folds: Mapping[str, int]) -> float | None:
    by_fold: dict[int, list[float]] = {}
    for case, gap in gaps.items():
        if case in folds:
            by_fold.setdefault(folds[case], []).append(gap)
    means = [np.mean(found) for found in by_fold.values()]
    return float(np.std(means, ddof=1)) if len(means) > 1 else None
