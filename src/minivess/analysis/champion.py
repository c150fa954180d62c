"""Choose the champion: the best family by a rule fixed in advance.

The family with the best mean of `analysis.metric` wins, unless a family with fewer parameters
cannot be told apart from it: where the interval of the paired difference includes 0, the
smaller network wins, and between equal sizes the better mean (`analysis.ties`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from minivess.analysis import formatting, paired
from minivess.config import ExperimentConfig
from minivess.contracts import Champion, Comparison, Scores, Selection
from minivess.errors import DataError
from minivess.evaluation import statistics
from minivess.text import several

Array = NDArray[np.float64]
RESAMPLES = 400
COARSE = 200
"""Resamples of the intervals within a resample of the choice."""


class Entries(NamedTuple):
    """Families to choose from, on the volumes on which all of them have a value."""

    families: list[Scores]
    gains: Array
    """(families, volumes), higher is better; distances have the opposite sign."""
    groups: list[str | None]


def eligible(judged: Sequence[Scores], config: ExperimentConfig) -> list[Scores]:
    """Return those that `analysis.eligible` lets be champion."""
    allowed = {"families": False, "ensembles": True}
    kinds = {allowed[kind] for kind in config.analysis.eligible}
    return [one for one in judged if one.combined in kinds]


def entries(judged: Sequence[Scores], config: ExperimentConfig) -> Entries:
    """Return the families with a value of the metric, and the volumes on which all have one.

    Raises:
        DataError: no volume on which they could be compared.
    """
    metric = config.analysis.metric
    families = [one for one in judged if mean(one, metric) is not None]
    if not families:
        raise DataError(
            f"No family has a value of {metric} on any volume, so there is no champion.",
            remedy="look at evaluation/per_volume_metrics.json of the training runs; "
            "train longer: training.max_epochs=100",
        )
    found = [paired.values(one, metric) for one in families]
    sign = -1.0 if paired.lower_is_better(metric) else 1.0
    common = [
        volume
        for volume in families[0].volumes
        if all(values.get(volume.case) is not None for values in found)
    ]
    if not common:
        raise DataError(
            f"There is no volume on which every family has a value of {metric}.",
            remedy="choose by a metric that is always defined: analysis.metric=dice",
        )
    rows = [[sign * float(values[one.case] or 0.0) for one in common] for values in found]
    return Entries(families, np.array(rows), [one.group for one in common])


def choose(
    judged: Sequence[Scores], config: ExperimentConfig, run_ids: Mapping[str, str]
) -> Champion:
    """Choose the champion among families.

    Args:
        run_ids: family -> id of its parent training run.

    Raises:
        DataError: no family has a value of the metric.
    """
    found = entries(judged, config)
    best, chosen = (found.families[place] for place in _winner(found, config))
    means = dict(zip([one.name for one in found.families], found.gains.mean(axis=1), strict=True))
    ranked = sorted(
        found.families, key=lambda one: (means[one.name], -one.trainable_parameters), reverse=True
    )
    ranked.insert(0, ranked.pop(ranked.index(best)))
    metric = config.analysis.metric
    value = mean(chosen, metric)
    assert value is not None
    return Champion(
        family=chosen.name,
        run_id=run_ids[chosen.name],
        metric=metric,
        value=value,
        reason=_reason(chosen, ranked, config),
    )


def select_again(judged: Sequence[Scores], config: ExperimentConfig) -> Selection | None:
    """Make the choice on resampled volumes, to see how stable and how optimistic it is.

    The expected value of the champion is what the families chosen in resamples reach on volumes
    outside of their resample (bootstrap bias corrected cross-validation, Tsamardinos et al. 2018).
    None with a single family or unit, where there is no choice.
    """
    found = entries(judged, config)
    members = [np.array(places) for places in _units(found.groups)]
    if len(found.families) < 2 or len(members) < 2:
        return None
    coarse = config.evaluation.model_copy(update={"bootstrap_n": COARSE})
    config = config.model_copy(update={"evaluation": coarse})
    picked = _winner(found, config)[1]
    rng, outside = np.random.default_rng(0), []
    counts = np.zeros((2, len(found.families)))
    for _ in range(RESAMPLES):
        drawn = rng.integers(0, len(members), size=len(members))
        inside = np.concatenate([members[unit] for unit in drawn])
        again = [str(place) for place, unit in enumerate(drawn) for _ in members[unit]]
        places = _winner(Entries(found.families, found.gains[:, inside], list(again)), config)
        counts[[0, 1], places] += 1
        left = np.setdiff1d(np.arange(len(found.groups)), inside)
        if len(left):
            # Relative to the champion on the same volumes, so that their difficulty cancels.
            outside.append(float((found.gains[places[1], left] - found.gains[picked, left]).mean()))
    sign = -1.0 if paired.lower_is_better(config.analysis.metric) else 1.0
    value = mean(found.families[picked], config.analysis.metric)
    assert value is not None
    first, chosen = (
        {one.name: float(share) for one, share in zip(found.families, row, strict=True)}
        for row in counts / RESAMPLES
    )
    return Selection(
        resamples=RESAMPLES,
        expected=value + sign * float(np.mean(outside)) if outside else None,
        chosen=chosen,
        first=first,
    )


def _winner(found: Entries, config: ExperimentConfig) -> tuple[int, int]:
    """Rows of the best mean and of the family that the rule chooses."""
    means = found.gains.mean(axis=1)
    sizes = [one.trainable_parameters for one in found.families]
    rows = range(len(sizes))
    best = max(rows, key=lambda row: (means[row], -sizes[row]))
    if config.analysis.ties == "mean":
        return best, best
    tied = [row for row in rows if sizes[row] < sizes[best] and _tied(found, best, row, config)]
    return best, min([best, *tied], key=lambda row: (sizes[row], -means[row]))


def _tied(found: Entries, best: int, other: int, config: ExperimentConfig) -> bool:
    gap = statistics.difference(
        found.gains[best].tolist(),
        found.gains[other].tolist(),
        config=config.evaluation,
        groups=found.groups,
    )
    return gap.lower is None or gap.upper is None or gap.lower <= 0 <= gap.upper


def _units(groups: Sequence[str | None]) -> list[list[int]]:
    """Places of the volumes of each independent unit."""
    found: dict[tuple[int, str | None], list[int]] = {}
    for place, group in enumerate(groups):
        found.setdefault((place if group is None else -1, group), []).append(place)
    return list(found.values())


def mean(judged: Scores, metric: str) -> float | None:
    """Return the mean of one metric; None if it is undefined on every volume."""
    interval = judged.intervals.get(metric)
    return interval.mean if interval else None


# --- the sentence -------------------------------------------------------------------------


def _reason(winner: Scores, ranked: Sequence[Scores], config: ExperimentConfig) -> str:
    best, metric = ranked[0], config.analysis.metric
    if len(ranked) == 1:
        return f"{winner.name} is the only family that was judged: {_stated(winner, metric)}."
    extreme = "lowest" if paired.lower_is_better(metric) else "highest"
    if winner is not best:
        gap = _lead(best, winner, config)
        return (
            f"{winner.name} needs {_parameters(winner)} parameters where {best.name}, the "
            f"{extreme} mean {metric}, needs {_parameters(best)}; the difference between them, "
            f"{_spelled(gap)}, is not distinguishable from 0, so the smaller network wins: "
            f"{_stated(winner, metric)}."
        )
    second = ranked[1]
    gap = _lead(best, second, config)
    opening = f"{winner.name} has the {extreme} mean {metric}, {_stated(winner, metric)}."
    if not gap.tied:
        few = f"ahead on each of {gap.difference.n_units}, which are too few to be sure"
        sure = few if gap.difference.method == "range" else "an interval that excludes 0"
        return f"{opening} It leads the runner-up {second.name} by {_spelled(gap)}, {sure}."
    size = "analysis.ties=mean" if config.analysis.ties == "mean" else _size(winner, second)
    return (
        f"{opening} The lead over the runner-up {second.name}, {_spelled(gap)}, is not "
        f"distinguishable from 0; {size}, so the {extreme.replace('est', 'er')} mean decides."
    )


def _lead(best: Scores, other: Scores, config: ExperimentConfig) -> Comparison:
    """The comparison in the order in which a lead is positive."""
    lower = paired.lower_is_better(config.analysis.metric)
    return paired.compare(*((other, best) if lower else (best, other)), config)


def _size(winner: Scores, second: Scores) -> str:
    if winner.trainable_parameters == second.trainable_parameters:
        return f"both have {_parameters(winner)} parameters"
    return f"{winner.name} is the smaller ({_parameters(winner)} against {_parameters(second)})"


def _parameters(judged: Scores) -> str:
    return formatting.count(judged.trainable_parameters)


def _stated(judged: Scores, metric: str) -> str:
    interval = judged.intervals[metric]
    mean_value, n = formatting.number(interval.mean), several(interval.n, "volume")
    return f"{mean_value} ({formatting.bounds(interval)}, {n})"


def _spelled(gap: Comparison) -> str:
    return f"{formatting.number(gap.difference.mean)} ({formatting.bounds(gap.difference)})"
