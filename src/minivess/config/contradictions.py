"""Pairs of settings that cannot both be meant, in one list."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class Clash(NamedTuple):
    """Two settings that cannot both be meant."""

    keys: tuple[str, ...]
    problem: str
    remedy: str
    holds: Callable[[Any], bool]
    """Whether a configuration contains it."""


CONTRADICTIONS = (
    Clash(
        ("training.patch_size", "compute.patch_strategy"),
        "training.patch_size is given, so the strategy is fixed, but another "
        "compute.patch_strategy is asked for.",
        "Leave out one of training.patch_size and compute.patch_strategy.",
        lambda c: (
            c.training.patch_size != "auto"
            and "patch_strategy" in c.compute.model_fields_set
            and c.compute.patch_strategy != "fixed"
        ),
    ),
    Clash(
        ("compute.patch_strategy", "training.patch_size"),
        "compute.patch_strategy=fixed needs a patch.",
        "Set training.patch_size=[64,64,16], or leave out compute.patch_strategy.",
        lambda c: c.compute.patch_strategy == "fixed" and c.training.patch_size == "auto",
    ),
    Clash(
        ("data.ignore_label", "data.label_map"),
        "data.ignore_label names a value that data.label_map makes a class.",
        "Leave out one of data.ignore_label and data.label_map for this value.",
        lambda c: c.data.ignore_label in c.data.label_map,
    ),
    Clash(
        ("training.extends", "training.max_epochs"),
        "training.extends goes on from a shorter training, so training.max_epochs must be larger.",
        "Raise training.max_epochs, or leave out training.extends.",
        lambda c: c.training.extends is not None and c.training.extends >= c.training.max_epochs,
    ),
    Clash(
        ("data.image", "data.label"),
        "data.image and data.label belong together, and only one of them is given.",
        "Give both, for example data.image=*_img.nii.gz data.label={case}_seg.nii.gz.",
        lambda c: (c.data.image is None) != (c.data.label is None),
    ),
    Clash(
        ("data.image", "data.root"),
        "data.image is a pattern for files of your own, but data.root does not say where they are.",
        "Add data.root=/path/to/folder, or leave out data.image and data.label for demo data.",
        lambda c: c.data.image is not None and c.data.root is None,
    ),
    Clash(
        ("data.spacing", "data.unit"),
        "data.spacing and data.unit belong together, and only one of them is given.",
        "Give both, for example data.spacing=[0.5,0.5,2] data.unit=micron.",
        lambda c: (c.data.spacing is None) != (c.data.unit is None),
    ),
    Clash(
        ("data.resampling.enabled", "data.resampling.method"),
        "data.resampling.enabled and data.resampling.method disagree.",
        "Set both data.resampling.enabled=true and data.resampling.method=spacing, or neither.",
        lambda c: c.data.resampling.enabled != (c.data.resampling.method is not None),
    ),
    Clash(
        ("data.resampling.method", "data.resampling.target_spacing"),
        "data.resampling.method=spacing needs data.resampling.target_spacing.",
        "Add for example 'data.resampling.target_spacing=[1,1,1]'.",
        lambda c: (
            c.data.resampling.method == "spacing" and c.data.resampling.target_spacing is None
        ),
    ),
    Clash(
        ("data.resampling.target_spacing", "data.resampling.enabled"),
        "data.resampling.target_spacing is given, but data.resampling.enabled is not true.",
        "Add data.resampling.enabled=true data.resampling.method=spacing, or leave it out.",
        lambda c: c.data.resampling.target_spacing is not None and not c.data.resampling.enabled,
    ),
    Clash(
        ("training.deployment", "training.parallel_cells"),
        "With training.deployment the work pool's limit decides how many cells train at once, but "
        "training.parallel_cells is given.",
        "Leave out one of training.deployment and training.parallel_cells.",
        lambda c: c.training.deployment is not None and c.training.parallel_cells != "auto",
    ),
    Clash(
        ("training.splits", "training.folds"),
        "training.splits brings its own folds, but training.folds is given too.",
        "Leave out one of training.splits and training.folds.",
        lambda c: c.training.splits is not None and "folds" in c.training.model_fields_set,
    ),
    Clash(
        ("training.splits", "training.stratify"),
        "training.splits brings its own folds, but training.stratify would make others.",
        "Leave out one of training.splits and training.stratify.",
        lambda c: c.training.splits is not None and c.training.stratify != "none",
    ),
    Clash(
        ("model", "training.axes"),
        "model sets a field for every network that training.axes varies.",
        "Leave it out of one of model and training.axes.",
        lambda c: bool(c.model.keys() & c.training.axes.keys()),
    ),
    Clash(
        ("training.splits", "training.test_fraction"),
        "training.splits brings its own test set, but training.test_fraction is given too.",
        "Leave out one of training.splits and training.test_fraction.",
        lambda c: c.training.splits is not None and c.training.test_fraction > 0,
    ),
    Clash(
        ("training.warmup_epochs", "training.max_epochs"),
        "training.warmup_epochs must be smaller than training.max_epochs.",
        "Lower training.warmup_epochs or raise training.max_epochs.",
        lambda c: c.training.warmup_epochs >= c.training.max_epochs,
    ),
    Clash(
        ("training.average_from", "training.max_epochs"),
        "training.average_from must be smaller than training.max_epochs, or nothing is averaged.",
        "Lower training.average_from or raise training.max_epochs.",
        lambda c: (c.training.average_from or 0) >= c.training.max_epochs,
    ),
    Clash(
        ("training.validation_share", "training.judged_epoch"),
        "training.judged_epoch=best and training.early_stopping_patience decide by whole volumes, "
        "but training.validation_share judges a part of them.",
        "Leave out training.validation_share, or judge the last epoch without early stopping.",
        lambda c: (
            c.training.validation_share not in ("auto", 1)
            and (c.training.judged_epoch == "best" or c.training.early_stopping_patience > 0)
        ),
    ),
    Clash(
        ("compute.profile", "training.device"),
        "compute.profile=cpu and training.device=cuda contradict each other.",
        "Leave out one of compute.profile and training.device.",
        lambda c: c.compute.profile == "cpu" and c.training.device == "cuda",
    ),
    Clash(
        ("training.device", "training.mixed_precision"),
        "training.mixed_precision=fp16 needs a GPU, but training.device=cpu is given.",
        "Use training.mixed_precision=bf16 or none on a CPU.",
        lambda c: c.training.device == "cpu" and c.training.mixed_precision == "fp16",
    ),
)
