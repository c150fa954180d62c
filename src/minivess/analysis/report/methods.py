"""Methods paragraphs for a paper, written from the settings used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from minivess import names
from minivess.analysis import formatting
from minivess.config import EvaluationConfig, ExperimentConfig
from minivess.contracts import AnalysisResult, DatasetProfile, FoldModel
from minivess.evaluation.statistics import FEWEST
from minivess.text import several

REFERENCES = (
    "Isensee et al. 2021, Nature Methods 18 (sliding window, foreground-balanced patches)",
    "Shit et al. 2021, CVPR (clDice)",
    "Maier-Hein, Reinke et al. 2024, Nature Methods 21 (definitions of the metrics)",
    "Field and Welsh 2007, J. R. Stat. Soc. B 69 (bootstrap of clustered data)",
    "Efron and Tibshirani 1993, An Introduction to the Bootstrap (studentized intervals)",
)


def paragraphs(
    result: AnalysisResult,
    profile: DatasetProfile,
    config: ExperimentConfig,
    models: Sequence[FoldModel] = (),
) -> list[str]:
    """Return paragraphs on data, training, evaluation and choice of the champion."""
    return [
        _data(profile, config, models),
        *(_training(config, models) if models else ()),
        _evaluation(result, config, formatting.distance_unit(profile)),
        _choice(result),
    ]


def _data(profile: DatasetProfile, config: ExperimentConfig, models: Sequence[FoldModel]) -> str:
    left = len(profile.quarantined)
    quarantine = (
        f" {several(left, 'volume')} could not be used and stand in the profile." if left else ""
    )
    resampling = config.data.resampling
    size = (
        f"resampled to {formatting.spacing(resampling.target_spacing)} ({resampling.method})"
        if resampling.enabled and resampling.target_spacing
        else "used at their native resolution, without resampling"
    )
    scaling = {
        "zscore": "scaled to zero mean and unit variance volume by volume",
        "minmax": "scaled to the range 0 to 1 volume by volume",
        "none": "left as they are",
    }[models[0].spec.window.normalisation if models else config.data.normalisation]
    return (
        f"The dataset {profile.dataset} (version {profile.dataset_hash[:12]}) holds "
        f"{several(profile.n_volumes, 'volume')}, {size}; intensities were {scaling}.{quarantine}"
    )


def _training(config: ExperimentConfig, models: Sequence[FoldModel]) -> list[str]:
    first, asked = models[0].spec, config.training.key_fields()
    courses = dict.fromkeys(_course(one.settings.get("training", asked)) for one in models)
    folds = {model.spec.fold.index for model in models}
    seeds = sorted({model.spec.seed for model in models})
    losses = {model.spec.loss.name: model.spec.loss.formula for model in models}
    nets = {one.spec.model: one for one in models}
    described = "; ".join(
        f"{name} ({net.spec.network.family}, filters {_joined(net.spec.network.filters)}, "
        f"{formatting.count(net.trainable_parameters)} parameters)"
        for name, net in nets.items()
    )
    overlap = f"{100 * first.window.overlap:.0f} %"
    return [
        f"Networks: {described}. Losses: "
        f"{'; '.join(f'{name} = {formula}' for name, formula in losses.items())}. "
        f"Each combination was trained in {len(folds)} folds of cross-validation for at most "
        f"{' or '.join(courses)}, on patches of "
        f"{formatting.shape(first.window.patch_size)} voxels, "
        f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}. Whole volumes were "
        f"predicted by a sliding window of the same size with {overlap} overlap and Gaussian "
        f"blending. {_judged(config, models)}"
    ]


def _course(training: Mapping[str, Any]) -> str:
    augment = "flips, rotations and intensity changes" if training["augment"] else "no augmentation"
    return (
        f"{training['max_epochs']} epochs ({training['optimizer']}, learning rate "
        f"{training['learning_rate']:g}, {training['scheduler']} schedule, {augment})"
    )


def _judged(config: ExperimentConfig, models: Sequence[FoldModel]) -> str:
    decay = models[0].settings.get("training", config.training.key_fields())["ema_decay"]
    averaged = f" (averaged, decay {decay:g})" * bool(decay)
    if all(model.checkpoint.name == names.FINAL for model in models):
        return f"The weights after the last epoch{averaged} were judged."
    return f"The weights{averaged} of the epoch that did best on each fold's volumes were judged."


def _joined(filters: Sequence[int]) -> str:
    return "-".join(map(str, filters))


def _intervals(result: AnalysisResult, settings: EvaluationConfig) -> str:
    if any(one.intervals[names.PRIMARY].method == "range" for one in result.families):
        return (
            f"Fewer than {FEWEST} volumes or groups give no confidence interval; beside the means "
            "stand the lowest and the highest."
        )
    return (
        f"Intervals are {settings.ci_level * 100:g} % {settings.ci_method} bootstrap intervals of "
        f"the mean over volumes ({settings.bootstrap_n} resamples, whole groups where groups are "
        "known)."
    )


def _evaluation(result: AnalysisResult, config: ExperimentConfig, unit: formatting.Unit) -> str:
    settings = config.evaluation
    sentences = (
        "Every volume was predicted only by networks that had not trained on it (out of fold); the "
        "volumes of a held-out test set by each fold's network alone, and chose nothing.",
        "Dice, clDice, MASD (mean of the two directed mean surface distances), HD95 and NSD follow "
        f"Metrics Reloaded; distances are in {unit.name}, the tolerance of NSD is "
        f"{settings.nsd_tolerance:g} voxels.",
        f"The primary metric, {names.PRIMARY}, is 0.5 · clDice + 0.5 · (1 {formatting.MINUS} "
        f"min(MASD, m) / m) with m = {settings.masd_cap:g} and MASD in voxels.",
        "F1 of voxels equals Dice.",
        "With several classes a metric is the mean over the foreground classes, and a "
        "distance undefined where one of them has none.",
        _intervals(result, settings),
    )
    return " ".join(sentences)


def _choice(result: AnalysisResult) -> str:
    ensembles = (
        " Ensembles average the class probabilities of their families; they are reported, not "
        "eligible."
        if result.ensembles
        else ""
    )
    return (
        f"The champion is the family with the highest mean {names.PRIMARY}; where the interval of "
        "the paired difference to another family includes 0, the family with fewer parameters "
        f"wins, then the higher mean.{ensembles} `Untrained` is the same network before its first "
        "training step, on the validation volumes of each fold."
    )
