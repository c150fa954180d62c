"""Pairs of settings that cannot both be meant; contradictions.toml says what is wrong."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple


class Clash(NamedTuple):
    """Two settings that cannot both be meant."""

    keys: tuple[str, ...]
    problem: str
    remedy: str
    holds: Callable[[Any], bool]
    """Whether a configuration contains it."""


HOLDS: dict[str, Callable[[Any], bool]] = {
    "patch_beside_strategy": lambda c: (
        c.training.patch_size != "auto"
        and "patch_strategy" in c.compute.model_fields_set
        and c.compute.patch_strategy != "fixed"
    ),
    "strategy_without_patch": lambda c: (
        c.compute.patch_strategy == "fixed" and c.training.patch_size == "auto"
    ),
    "ignored_class": lambda c: c.data.ignore_label in c.data.label_map,
    "shorter_extension": lambda c: (
        c.training.extends is not None and c.training.extends >= c.training.max_epochs
    ),
    "one_pattern": lambda c: (c.data.image is None) != (c.data.label is None),
    "pattern_without_folder": lambda c: c.data.image is not None and c.data.root is None,
    "one_of_size_and_unit": lambda c: (c.data.spacing is None) != (c.data.unit is None),
    "half_resampling": lambda c: (
        c.data.resampling.enabled != (c.data.resampling.method is not None)
    ),
    "spacing_without_target": lambda c: (
        c.data.resampling.method == "spacing" and c.data.resampling.target_spacing is None
    ),
    "target_without_resampling": lambda c: (
        c.data.resampling.target_spacing is not None and not c.data.resampling.enabled
    ),
    "cells_of_a_pool": lambda c: (
        c.training.deployment is not None and c.training.parallel_cells != "auto"
    ),
    "slots_of_a_pool": lambda c: c.training.slots is not None and c.training.deployment is None,
    "folds_of_a_file": lambda c: (
        c.training.splits is not None and "folds" in c.training.model_fields_set
    ),
    "strata_of_a_file": lambda c: c.training.splits is not None and c.training.stratify != "none",
    "fixed_and_varied": lambda c: bool(c.model.keys() & c.training.axes.keys()),
    "test_set_of_a_file": lambda c: c.training.splits is not None and c.training.test_fraction > 0,
    "long_warm_up": lambda c: c.training.warmup_epochs >= c.training.max_epochs,
    "late_average": lambda c: (c.training.average_from or 0) >= c.training.max_epochs,
    "part_decides": lambda c: (
        c.training.validation_share not in ("auto", 1)
        and (c.training.judged_epoch == "best" or c.training.early_stopping_patience > 0)
    ),
    "cpu_tier_on_a_gpu": lambda c: c.compute.profile == "cpu" and c.training.device == "cuda",
    "fp16_on_a_cpu": lambda c: c.training.device == "cpu" and c.training.mixed_precision == "fp16",
}
TEXTS = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
CONTRADICTIONS = tuple(
    Clash(tuple(TEXTS[name]["keys"]), TEXTS[name]["problem"], TEXTS[name]["remedy"], holds)
    for name, holds in HOLDS.items()
)
