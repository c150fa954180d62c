"""Methods paragraphs for a paper, written from the settings used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from minivess import names
from minivess.analysis import formatting
from minivess.config import ExperimentConfig
from minivess.contracts import AnalysisResult, DatasetProfile, FoldModel
from minivess.evaluation.statistics import FEWEST
from minivess.runtime import templates
from minivess.text import several

COMBINED = {
    "mean": "the mean of their class probabilities",
    "vote": "majority vote (ties go to the higher mean probability)",
    "soup": "averaged weights, fold by fold",
    "greedy": "the mean of those that raised Dice on the other folds (Caruana et al. 2004)",
}


LIGHT = "flips, quarter turns and intensity changes"
FULL = f"{LIGHT}, rotations, scaling, blur, gaps in vessels and noise of microscopes"
AUGMENTATIONS = {
    **dict.fromkeys(("none", False), "no augmentation"),
    **dict.fromkeys(("light", True), LIGHT),
    "full": FULL,
    "auto": f"{LIGHT}, and in a long training more",
}
"""What is said of a set; older runs hold true or false."""


def paragraphs(
    result: AnalysisResult,
    profile: DatasetProfile,
    config: ExperimentConfig,
    models: Sequence[FoldModel] = (),
) -> list[str]:
    """Return paragraphs on data, training, evaluation and choice of the champion."""
    first = models[0].spec if models else None
    settings = [one.settings.get("training", config.training.key_fields()) for one in models]
    return templates.paragraphs(
        Path(__file__).with_name("methods.md.j2"),
        result=result,
        profile=profile,
        resampling=config.data.resampling,
        normalisation=first.window.normalisation if first else config.data.normalisation,
        models=models,
        networks={one.spec.model: one for one in models},
        losses={one.spec.loss.name: one.spec.loss.formula for one in models},
        folds=len({one.spec.fold.index for one in models}),
        seeds=sorted({one.spec.seed for one in models}),
        courses=list(dict.fromkeys(map(_course, settings))),
        window=first.window if first else None,
        patch=first.patch if first else None,
        judged_last=all(one.checkpoint.name == names.FINAL for one in models),
        averaged=_averaged(settings[0]) if settings else "",
        unit=formatting.distance_unit(profile),
        evaluation=config.evaluation,
        primary=names.PRIMARY,
        distances=names.DISTANCES,
        ties=config.analysis.ties,
        ensembles=" or ".join(dict.fromkeys(COMBINED[one.how] for one in result.ensembles)),
        eligible="ensembles" in config.analysis.eligible,
        few=any(one.intervals[names.PRIMARY].method == "range" for one in result.families),
        fewest=FEWEST,
        several=several,
        count=formatting.count,
        shape=formatting.shape,
        spacing=formatting.spacing,
    )


def _averaged(training: Mapping[str, Any]) -> str:
    """`averaged from epoch 40, decay 0.99`, or nothing; older settings lack the epoch."""
    decay, begins = training["ema_decay"], training.get("average_from")
    words = [f" from epoch {begins}"] * (begins is not None) + [f", decay {decay:g}"] * bool(decay)
    return f"averaged{''.join(words)}" if words else ""


def _course(training: Mapping[str, Any]) -> str:
    augment = AUGMENTATIONS[training["augment"]]
    return (
        f"{training['max_epochs']} epochs ({training['optimizer']}, learning rate "
        f"{training['learning_rate']:g}, {training['scheduler']} schedule, {augment})"
    )
