"""What the numbers of an analysis cannot say, in sentences with this dataset's own figures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minivess import names
from minivess.analysis import wording
from minivess.config import EvaluationConfig, ExperimentConfig
from minivess.contracts import AnalysisResult, Judged, Member

FEW = 30
GENEROUS = 0.2
TRIALS = 1000
RESAMPLES = 400


def notes(
    result: AnalysisResult, best: Judged, config: ExperimentConfig, members: Sequence[Member] = ()
) -> list[str]:
    """Everything a reader should keep in mind, most important first."""
    return [
        *_size(best, config.evaluation),
        *_selection(result, members),
        *_seeds(members, config),
        *_folds(members),
        *_compound(result, config.evaluation),
        *_undefined(result),
        *result.notes,
    ]


def units(judged: Judged) -> int:
    """Independent pieces of evidence: groups where volumes have one, else volumes."""
    return len(
        {
            ("volume", one.case) if one.group is None else ("group", one.group)
            for one in judged.volumes
        }
    )


def coverage(n: int, level: float, *, seed: int = 0) -> float:
    """How often a percentile bootstrap interval of `n` normal values holds the true mean."""
    rng = np.random.default_rng(seed)
    samples = rng.normal(size=(TRIALS, n))
    drawn = rng.integers(0, n, size=(RESAMPLES, n))
    means = samples[:, drawn].mean(axis=-1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=1)
    return float(((low <= 0) & (high >= 0)).mean())


def _size(best: Judged, config: EvaluationConfig) -> list[str]:
    n, what = units(best), "group" if _grouped(best) else "volume"
    if n < 2:
        return [
            f"There is only {wording.counted(n, what)}: the means have no intervals, and nothing "
            "can be said about other data."
        ]
    clustered = " Whole groups are resampled, because their volumes are not independent."
    said = f"All intervals rest on {wording.counted(n, what)}.{clustered if _grouped(best) else ''}"
    if n >= FEW:
        return [said]
    real = 100 * coverage(n, config.ci_level)
    return [
        f"{said} That is few: bootstrap intervals are then too narrow. In a simulation with {n} "
        f"normal values an interval called {config.ci_level * 100:g} % holds the true mean in "
        f"{real:.0f} % of trials."
    ]


def _selection(result: AnalysisResult, members: Sequence[Member]) -> list[str]:
    found = [
        "Each fold's checkpoint was picked by its score on the volumes that it is judged on here, "
        "so the numbers lean to the bright side."
    ]
    if len(result.families) > 1:
        found.append(
            f"The champion was picked among {len(result.families)} families on these same volumes; "
            "the best of several looks better than it is. Intervals are not corrected for the "
            "number of comparisons."
        )
    if members and not any(member.spec.test for member in members):
        found.append(
            "No volume was kept for a final test. For an unbiased number hold some back: "
            "training.test_fraction=0.2, or bring volumes of another source."
        )
    return found


def _seeds(members: Sequence[Member], config: ExperimentConfig) -> list[str]:
    seeds = {member.spec.seed for member in members} or set(config.training.seeds)
    if len(seeds) > 1:
        return []
    return [
        "One seed was trained. Another seed gives other weights, and that variation is not in the "
        "intervals; training.seeds=[42,43,44] shows it."
    ]


def _folds(members: Sequence[Member]) -> list[str]:
    folds = {member.spec.fold.index for member in members}
    if not folds or len(folds) > 2:
        return []
    return [
        f"With {wording.counted(len(folds), 'fold')} each network trained on about half of the "
        "data; one trained on more of it would probably do better."
    ]


def _compound(result: AnalysisResult, config: EvaluationConfig) -> list[str]:
    free = result.untrained.get(names.PRIMARY, 0.0)
    if free < GENEROUS:
        return []
    return [
        f"The compound metric gives {wording.number(free)} to the untrained network: its distance "
        f"half counts against a cap of {config.masd_cap:g} voxels, which is far in volumes of this "
        "size. Read Dice and clDice beside it."
    ]


def _undefined(result: AnalysisResult) -> list[str]:
    undefined = sum(
        one.values.get("masd") is None for judged in result.families for one in judged.volumes
    )
    if not undefined:
        return []
    return [
        f"{wording.counted(undefined, 'prediction')} left a class empty (or found one that is not "
        "there): surface distances are undefined there and missing from their means, while the "
        "compound metric counts such a volume as 0."
    ]


def _grouped(judged: Judged) -> bool:
    return any(one.group is not None for one in judged.volumes)
