"""Limitations of an analysis, in sentences with this dataset's figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from minivess import names
from minivess.analysis import formatting
from minivess.config import ExperimentConfig
from minivess.contracts import AnalysisResult, DatasetProfile, FoldModel, Scores
from minivess.runtime import templates
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
    primary = best.intervals[names.PRIMARY]
    grouped = any(one.group is not None for one in best.volumes)
    seeds = {model.spec.seed for model in models} or set(config.training.seeds)
    written = templates.paragraphs(
        Path(__file__).with_name("limitations.md.j2"),
        result=result,
        config=config,
        models=models,
        primary=primary,
        n_units=primary.n_units,
        grouped=grouped,
        evidence=several(primary.n_units, "group" if grouped else "volume"),
        few=FEW,
        best_epoch=any(model.checkpoint.name != names.FINAL for model in models),
        stopped_early=any(model.stopped_early for model in models),
        held_out=any(model.spec.test for model in models),
        seeds=len(seeds),
        folds=len({model.spec.fold.index for model in models}),
        untrained=result.untrained.get(names.PRIMARY, 0.0),
        generous=GENEROUS,
        undefined=_undefined(result),
        units=sorted({volume.unit for volume in profile.volumes}) if profile else [],
        several=several,
        number=formatting.number,
    )
    return [*written, *result.notes]


def _undefined(result: AnalysisResult) -> list[str]:
    """Families with volumes that have no surface distance."""
    return [
        f"{metric} of {scores.name}: {interval.n_undefined} of {len(scores.volumes)}"
        for scores in result.families
        for metric, interval in scores.intervals.items()
        if interval.n_undefined and names.stem(metric) == names.DISTANCES[0]
    ]
