"""Choose the champion: the best family by a rule fixed in advance.

The family with the highest mean primary metric wins, unless a family with fewer parameters
cannot be told apart from it: where the interval of the paired difference includes 0, the
smaller network wins, and between equal sizes the higher mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from minivess import names
from minivess.analysis import formatting
from minivess.config import ExperimentConfig
from minivess.contracts import Champion, Interval, Scores
from minivess.errors import DataError
from minivess.evaluation import statistics
from minivess.text import several


class Comparison(NamedTuple):
    """One family or ensemble against the family with the highest mean, on common volumes."""

    name: str
    difference: Interval
    tied: bool


def choose(
    judged: Sequence[Scores], config: ExperimentConfig, run_ids: Mapping[str, str]
) -> Champion:
    """Choose the champion among families.

    Args:
        run_ids: family -> id of its parent training run.

    Raises:
        DataError: no family has a value of the primary metric.
    """
    ranked = sorted(
        (one for one in judged if mean(one) is not None), key=_by_mean_then_size, reverse=True
    )
    if not ranked:
        raise DataError(
            f"No family has a value of {names.PRIMARY} on any volume, so there is no champion.",
            remedy="look at evaluation/per_volume_metrics.json of the training runs; "
            "train longer: training.max_epochs=100",
        )
    best = ranked[0]
    compared = {one.name: compare(best, one, config) for one in ranked[1:]}
    tied = [one for one in ranked[1:] if compared[one.name].tied]
    winner = min([best, *tied], key=lambda one: (one.trainable_parameters, -_value(one)))
    return Champion(
        family=winner.name,
        run_id=run_ids[winner.name],
        metric=names.PRIMARY,
        value=_value(winner),
        reason=_reason(winner, ranked, compared),
    )


def compare(best: Scores, other: Scores, config: ExperimentConfig) -> Comparison:
    """Compute the paired bootstrap interval of `best` minus `other` in the primary metric."""
    mine, theirs = values(best), values(other)
    common = [case for case in mine if case in theirs]
    groups = {volume.case: volume.group for volume in best.volumes}
    difference = statistics.difference(
        [mine[case] for case in common],
        [theirs[case] for case in common],
        config=config.evaluation,
        groups=[groups[case] for case in common],
        within=(-1, 1),
    )
    return Comparison(other.name, difference, tied=includes_zero(difference))


def includes_zero(difference: Interval) -> bool:
    """Whether the interval contains 0; true if there is no interval."""
    if difference.lower is None or difference.upper is None:
        return True
    return difference.lower <= 0 <= difference.upper


def values(judged: Scores, metric: str = names.PRIMARY) -> dict[str, float | None]:
    """Return case -> value of one metric."""
    return {volume.case: volume.values.get(metric) for volume in judged.volumes}


def mean(judged: Scores, metric: str = names.PRIMARY) -> float | None:
    """Return the mean of one metric; None if it is undefined on every volume."""
    interval = judged.intervals.get(metric)
    return interval.mean if interval else None


def _value(judged: Scores) -> float:
    value = mean(judged)
    return float("-inf") if value is None else value


def _by_mean_then_size(judged: Scores) -> tuple[float, int]:
    return _value(judged), -judged.trainable_parameters


# --- the sentence -------------------------------------------------------------------------


def _reason(winner: Scores, ranked: Sequence[Scores], compared: Mapping[str, Comparison]) -> str:
    best = ranked[0]
    if len(ranked) == 1:
        return f"{winner.name} is the only family that was judged: {_stated(winner)}."
    if winner is not best:
        gap = compared[winner.name].difference
        return (
            f"{winner.name} needs {_parameters(winner)} parameters where {best.name}, the highest "
            f"mean {names.PRIMARY}, needs {_parameters(best)}; the difference between them, "
            f"{_spelled(gap)}, is not distinguishable from 0, so the smaller network wins: "
            f"{_stated(winner)}."
        )
    second = ranked[1]
    gap = compared[second.name].difference
    opening = f"{winner.name} has the highest mean {names.PRIMARY}, {_stated(winner)}."
    if not compared[second.name].tied:
        few = f"ahead on each of {gap.n_units}, which are too few to be sure"
        sure = few if gap.method == "range" else "an interval that excludes 0"
        return f"{opening} It leads the runner-up {second.name} by {_spelled(gap)}, {sure}."
    return (
        f"{opening} The lead over the runner-up {second.name}, {_spelled(gap)}, is not "
        f"distinguishable from 0; {_size(winner, second)}, so the higher mean decides."
    )


def _size(winner: Scores, second: Scores) -> str:
    if winner.trainable_parameters == second.trainable_parameters:
        return f"both have {_parameters(winner)} parameters"
    return f"{winner.name} is the smaller ({_parameters(winner)} against {_parameters(second)})"


def _parameters(judged: Scores) -> str:
    return formatting.count(judged.trainable_parameters)


def _stated(judged: Scores) -> str:
    interval = judged.intervals[names.PRIMARY]
    mean_value, n = formatting.number(interval.mean), several(interval.n, "volume")
    return f"{mean_value} ({formatting.bounds(interval)}, {n})"


def _spelled(gap: Interval) -> str:
    return f"{formatting.number(gap.mean)} ({formatting.bounds(gap)})"
