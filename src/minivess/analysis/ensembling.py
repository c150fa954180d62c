"""Ensembles of families, evaluated like families, on the same volumes.

Groups: the seeds of one model and loss, all families of one loss, all families. Of each group the
mean of the class probabilities, the majority vote (ties go to the higher mean probability), and
the uniform soup: one network of averaged weights, per fold, of equal networks. `greedy` is the
mean of those families that raise Dice, added one by one on the other folds.

`fold_soup` is one network of a family's weights averaged over its folds. Together these have seen
every volume but those of a held-out test set, where alone it is judged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, get_args

from minivess.config import EvaluationConfig, ExperimentConfig
from minivess.contracts import FoldModel, How, Scores, VolumeMetrics
from minivess.evaluation import statistics

HOWS: tuple[How, ...] = get_args(How)
ALL = "all"
GREEDY = "greedy"
FEWEST_VOTERS = 3


class Ensemble(NamedTuple):
    """How families are combined; a family alone is its own mean."""

    families: tuple[str, ...]
    how: How = "mean"
    by_fold: Mapping[int, tuple[str, ...]] = {}
    """Families of a volume that this fold validated, where the choice is nested."""

    def of(self, fold: int | None) -> tuple[str, ...]:
        """The families that judge a volume of a fold; None is a held-out volume."""
        return self.by_fold.get(fold, self.families) if fold is not None else self.families


Combinations = Mapping[str, Ensemble]


def plan(
    models: Sequence[FoldModel], config: ExperimentConfig
) -> tuple[dict[str, Ensemble], list[str]]:
    """Return name -> family or ensemble to judge, and a note for each that cannot be made."""
    first = {model.family: model for model in models}
    found, notes = {family: Ensemble((family,)) for family in first}, []
    for group, families in _groups(first).items():
        for how in HOWS:
            if how not in config.analysis.ensembles:
                continue
            name = f"{how}_{group}"
            if why := _refusal(how, families, [one for one in models if one.family in families]):
                notes.append(f"{name} was not made: {why}.")
            else:
                found[name] = Ensemble(families, how)
    return found, notes


def across_folds(
    models: Sequence[FoldModel], config: ExperimentConfig
) -> tuple[dict[str, Ensemble], list[str]]:
    """Return a soup of each family's folds, or a note why there is none."""
    found: dict[str, Ensemble] = {}
    notes = []
    for family in {model.family: 0 for model in models if "soup" in config.analysis.ensembles}:
        folds = [model for model in models if model.family == family]
        if not all(model.spec.test for model in folds):
            why = "its folds have seen every volume; training.test_fraction=0.2 keeps some unseen"
        elif len(folds) < 2:
            why = "there is one fold"
        else:
            why = _refusal("soup", (family,), folds[:1])
        if why:
            notes.append(f"fold_soup_{family} was not made: {why}.")
        else:
            found[f"fold_soup_{family}"] = Ensemble((family,), "fold_soup")
    return found, notes


def _groups(first: Mapping[str, FoldModel]) -> dict[str, tuple[str, ...]]:
    """Name -> the families of one model and loss, of one loss, and all; groups of two or more."""
    if len(first) < 2:
        return {}
    found: dict[str, tuple[str, ...]] = {}
    for label in (_recipe, lambda model: model.spec.loss.name):
        labels = {name: label(model) for name, model in first.items()}
        for group in dict.fromkeys(labels.values()):
            alike = tuple(name for name, one in labels.items() if one == group)
            if 1 < len(alike) < len(first) and alike not in found.values():
                found[group] = alike
    return {**found, ALL: tuple(first)}


def _refusal(how: How, families: Sequence[str], models: Sequence[FoldModel]) -> str:
    """Why this ensemble cannot be made; empty if it can."""
    if how == "vote" and len(families) < FEWEST_VOTERS:
        return f"a majority needs {FEWEST_VOTERS} voters, and there are {len(families)}"
    if how != "soup":
        return ""
    networks = [model.spec.network.replace(name="") for model in models]
    if any(network != networks[0] for network in networks):
        return "weights can be averaged within one network only, and these differ"
    if networks[0].norm.lower() == "batch":
        return "statistics of batch norm do not hold for averaged weights; use another norm"
    trained = {(model.spec.fold.index, model.spec.fold.train) for model in models}
    if len(trained) > len({index for index, _ in trained}):
        return "their folds differ, so an averaged network would have seen what it is judged on"
    return ""


def judged(
    name: str,
    ensemble: Ensemble,
    volumes: Sequence[VolumeMetrics],
    models: Sequence[FoldModel],
    config: EvaluationConfig,
) -> Scores:
    """Summarise the scores of one family or ensemble.

    The parameters of an ensemble are those of all its families, of a soup those of one.
    """
    groups = [volume.group for volume in volumes]
    metrics = dict.fromkeys(metric for volume in volumes for metric in volume.values)
    size = {model.family: model.trainable_parameters for model in models}
    sizes = [size[family] for family in ensemble.families]
    return Scores(
        name=name,
        members=ensemble.families,
        by_fold=dict(ensemble.by_fold),
        how="greedy" if ensemble.by_fold else ensemble.how,
        trainable_parameters=max(sizes) if "soup" in ensemble.how else sum(sizes),
        intervals={
            metric: statistics.interval(
                [volume.values.get(metric) for volume in volumes],
                config=config,
                groups=groups,
                within=statistics.range_of(metric),
            )
            for metric in metrics
        },
        volumes=tuple(volumes),
    )


def _recipe(model: FoldModel) -> str:
    return f"{model.spec.model}_{model.spec.loss.name}"
