"""Ensembles of families by mean probability, evaluated like families, on the same volumes.

With several seeds there is an ensemble per model x loss over its seeds; with several families,
one of all of them.
"""

from __future__ import annotations

from collections.abc import Sequence

from minivess.config import EvaluationConfig, ExperimentConfig
from minivess.contracts import FoldModel, Scores, VolumeMetrics
from minivess.evaluation import statistics

ALL = "mean_all"


def plan(models: Sequence[FoldModel], config: ExperimentConfig) -> dict[str, tuple[str, ...]]:
    """Return name of family or ensemble -> families whose probabilities it averages."""
    families = {model.family: model for model in models}
    combinations: dict[str, tuple[str, ...]] = {family: (family,) for family in families}
    if "mean" not in config.analysis.ensembles or len(families) < 2:
        return combinations
    for recipe in dict.fromkeys(map(_recipe, families.values())):
        alike = tuple(name for name, one in families.items() if _recipe(one) == recipe)
        if 1 < len(alike) < len(families):
            combinations[f"mean_{recipe}"] = alike
    return {**combinations, ALL: tuple(families)}


def judged(
    name: str,
    families: tuple[str, ...],
    volumes: Sequence[VolumeMetrics],
    models: Sequence[FoldModel],
    config: EvaluationConfig,
) -> Scores:
    """Summarise the scores of one family or ensemble.

    The parameters of an ensemble are those of all its families.
    """
    groups = [volume.group for volume in volumes]
    metrics = dict.fromkeys(metric for volume in volumes for metric in volume.values)
    size = {model.family: model.trainable_parameters for model in models}
    return Scores(
        name=name,
        members=families,
        trainable_parameters=sum(size[family] for family in families),
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
