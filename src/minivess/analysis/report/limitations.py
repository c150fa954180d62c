"""Limitations of an analysis, in sentences with this dataset's figures."""

from __future__ import annotations

from collections.abc import Sequence

from minivess import names
from minivess.analysis import formatting
from minivess.config import EvaluationConfig, ExperimentConfig
from minivess.contracts import AnalysisResult, DatasetProfile, FoldModel, Scores
from minivess.text import several

FEW = 30
GENEROUS = 0.2


def notes(
    result: AnalysisResult,
    best: Scores,
    config: ExperimentConfig,
    models: Sequence[FoldModel] = (),
    profile: DatasetProfile | None = None,
) -> list[str]:
    """Return the limitations, most important first."""
    return [
        *_size(best),
        *_selection(result, models),
        *_seeds(models, config),
        *_folds(models),
        *_compound(result, config.evaluation),
        *_undefined(result),
        *_units(profile),
        *result.notes,
    ]


def _size(best: Scores) -> list[str]:
    interval = best.intervals[names.PRIMARY]
    grouped = any(one.group is not None for one in best.volumes)
    n = several(interval.n_units, "group" if grouped else "volume")
    if interval.n_units < 2:
        return [
            f"There is only {n}: the means have no intervals, and nothing can be said about other "
            "data."
        ]
    if interval.method == "range":
        return [
            f"All figures rest on {n}, too few for a confidence interval: what stands beside a "
            f"mean is the lowest and the highest {'group mean' if grouped else 'value'}, and "
            f"such a range misses the true median in {100 * (1 - interval.level):.0f} % of cases."
        ]
    clustered = " Whole groups are resampled, because their volumes are not independent."
    said = f"All intervals rest on {n}.{clustered if grouped else ''}"
    if interval.method == "studentized" or interval.n_units >= FEW:
        return [said]
    return [
        f"{said} That is few, and percentile intervals are then too narrow: simulated ones called "
        "95 % hold the true mean in 83 % of trials with 5 volumes and 90 % with 12. "
        "evaluation.ci_method=studentized holds its level."
    ]


def _selection(result: AnalysisResult, models: Sequence[FoldModel]) -> list[str]:
    found = []
    if any(model.checkpoint.name != names.FINAL for model in models):
        found.append(
            "Each fold's weights are of the epoch that scored best on the volumes that they are "
            "judged on here (training.judged_epoch=best), so the figures flatter; "
            "training.judged_epoch=last is free of that choice."
        )
    if any(model.stopped_early for model in models):
        found.append(
            "Early stopping looked at the loss on the volumes that are judged here, so when to "
            "stop was chosen on them; the figures lean to the bright side a little."
        )
    if len(result.families) > 1:
        found.append(
            f"The champion was picked among {len(result.families)} families on these same volumes; "
            "the best of several looks better than it is. Intervals are not corrected for the "
            "number of comparisons." + (" The test set chose nothing." if result.test else "")
        )
    if models and not any(model.spec.test for model in models):
        found.append(
            "No volume was kept for a final test. For an unbiased number hold some back: "
            "training.test_fraction=0.2, or bring volumes of another source."
        )
    return found


def _seeds(models: Sequence[FoldModel], config: ExperimentConfig) -> list[str]:
    seeds = {model.spec.seed for model in models} or set(config.training.seeds)
    if len(seeds) > 1:
        return []
    return [
        "One seed was trained. Another seed gives other weights, and that variation is not in the "
        "intervals; training.seeds=[42,43,44] shows it."
    ]


def _folds(models: Sequence[FoldModel]) -> list[str]:
    folds = {model.spec.fold.index for model in models}
    if not folds or len(folds) > 2:
        return []
    return [
        f"With {several(len(folds), 'fold')} each network trained on about half of the "
        "data; one trained on more of it would probably do better."
    ]


def _compound(result: AnalysisResult, config: EvaluationConfig) -> list[str]:
    free = result.untrained.get(names.PRIMARY, 0.0)
    if free < GENEROUS:
        return []
    return [
        f"The compound metric gives {formatting.number(free)} to the untrained network: its "
        f"distance half counts against a cap of {config.masd_cap:g} voxels, which is far in "
        "volumes of this size. Read Dice and clDice beside it."
    ]


def _undefined(result: AnalysisResult) -> list[str]:
    found = [
        f"{metric} of {judged.name}: {interval.n_undefined} of {len(judged.volumes)}"
        for judged in result.families
        for metric, interval in judged.intervals.items()
        if interval.n_undefined and names.stem(metric) == names.DISTANCES[0]
    ]
    if not found:
        return []
    return [
        f"Predictions left a class empty, or found one that is not there: {'; '.join(found)}. "
        "Surface distances are undefined there and missing from their means, which therefore look "
        "better than they are; scores count such a class as 0."
    ]


def _units(profile: DatasetProfile | None) -> list[str]:
    found = sorted({volume.unit for volume in profile.volumes}) if profile else []
    if len(found) < 2:
        return []
    return [
        f"The headers state different units ({', '.join(found)}), and distances are in those of "
        "each volume, so their means say nothing. Read NSD and the compound metric, or state one "
        "unit for all volumes."
    ]
