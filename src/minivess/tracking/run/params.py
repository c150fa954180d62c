"""Params of runs (spec 1.2 and 1.4), derived from contracts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from minivess import keys
from minivess.config import EvaluationConfig, ExperimentConfig
from minivess.contracts import (
    Composition,
    ComputePlan,
    DatasetProfile,
    Fold,
    Loss,
    Network,
    Shape,
    Split,
)

Params = dict[str, Any]
# A run is one point of the grid: its model, loss and seed have params of their own, and the number
# of cells trained in parallel and the time for all are no property of one cell.
GRID = ("models", "losses", "seeds", "parallel_cells", "time_limit_s")
RESOLVED = (
    "patch_size", "patch_schedule", "batch_size", "num_workers", "cache_rate", "mixed_precision",
    "threads", "device", "iterations_per_epoch", "validation_interval", "validation_share",
)  # fmt: skip


def training_params(config: ExperimentConfig, plan: ComputePlan, *, seed: int) -> Params:
    """Return every field of the training config under its own name, `auto` values resolved.

    Lists of the grid are left out; `seed`, `model_name` and `loss_name` identify the point.
    """
    asked = config.training.model_dump(mode="json", exclude=set(GRID))
    is_fixed = config.training.patch_size != "auto"
    return {
        **asked,
        **plan_params(plan),
        "seed": seed,
        "samples_per_volume": config.training.samples,
        "patch_strategy": "fixed" if is_fixed else config.compute.patch_strategy,
        "prediction_window": plan.window,
        **preparation_params(config),
    }


def plan_params(plan: ComputePlan) -> Params:
    """Return what the plan resolved and predicts."""
    return {
        **{name: getattr(plan, name) for name in RESOLVED},
        "compute_profile": plan.tier,
        "plan_number": plan.number,
        "predicted_memory_gb": round(plan.predicted_memory_gb, 3),
        "memory_budget_gb": round(plan.memory_budget_gb, 3),
        "n_padded_volumes": len(plan.padded),
    }


def preparation_params(config: ExperimentConfig) -> Params:
    """Return how volumes are preprocessed."""
    resampling = config.data.resampling
    return {
        "data_normalisation": config.data.normalisation,
        "data_resampling_enabled": resampling.enabled,
        "data_resampling_method": resampling.method,
        "data_resampling_target_spacing": resampling.target_spacing,
    }


def arch_params(network: Network, divisor: Shape | None = None) -> Params:
    """Return `arch_*` for every field of the network, and its usual names without prefix."""
    fields = network.model_dump(mode="json", exclude={"in_channels", "out_channels"})
    limits = fields.pop("limits")
    return {
        **{f"arch_{name}": value for name, value in (fields | limits).items()},
        **({} if divisor is None else {"arch_divisor": divisor}),
        "model_family": network.family,
        "model_name": network.name,
        "in_channels": network.in_channels,
        "out_channels": network.out_channels,
    }


def composition_params(model: Composition) -> Params:
    """Return `arch_*` of a model's network; of an ensemble how many it has, and how they answer."""
    first = model.parts[0].network
    if len(model.parts) == 1:
        return arch_params(first)
    return {
        "model_family": "ensemble",
        "model_name": f"{model.how} of {len(model.parts)} networks",
        "in_channels": first.in_channels,
        "out_channels": first.out_channels,
    }


def loss_params(loss: Loss) -> Params:
    """Return the loss, its formula and weights, and arguments of terms that have any."""
    arguments = {term.loss: term.arguments for term in loss.terms if term.arguments}
    return {
        "loss_name": loss.name,
        "loss_config": loss.formula,
        "loss_weights": {term.loss: term.weight for term in loss.terms},
        **({"loss_arguments": arguments} if arguments else {}),
    }


def evaluation_params(config: EvaluationConfig) -> Params:
    """Return `eval_*` for every field of the evaluation config."""
    return {f"eval_{name}": value for name, value in config.model_dump(mode="json").items()}


def data_params(
    profile: DatasetProfile, split: Split | None = None, fold: Fold | None = None
) -> Params:
    """Return `data_*`: the dataset and, with a split, its training and validation volumes.

    With a fold: its volumes; without one: sizes and ids of all folds, in order.
    """
    dataset = {
        "dataset_name": profile.dataset,
        "dataset_path": profile.dataset_path,
        "dataset_hash": profile.dataset_hash,
        "n_volumes": profile.n_volumes,
        "total_size_gb": f"{profile.total_size_gb:.6g}",
        "shape_range": f"{_bracketed(profile.min_shape)}-{_bracketed(profile.max_shape)}",
        "spacing_range": "-".join(map(_bracketed, profile.spacing_range)),
        "classes": profile.classes,
        "label_map": profile.label_map,
        "n_quarantined": len(profile.quarantined),
    }
    found = {f"data_{name}": value for name, value in dataset.items()}
    return found | (split_params(split, fold, profile) if split is not None else {})


def split_params(split: Split, fold: Fold | None, profile: DatasetProfile | None) -> Params:
    """Return training and validation volumes of one fold, or of all folds in order.

    Hashes are of the volumes' bytes, so they need a profile.
    """
    if fold is not None:
        ids: Params = {"train_volume_ids": fold.train, "val_volume_ids": fold.val}
        sizes: Params = {"n_train_volumes": len(fold.train), "n_val_volumes": len(fold.val)}
    else:
        ids = {
            "train_volume_ids": {part.index: part.train for part in split.folds},
            "val_volume_ids": {part.index: part.val for part in split.folds},
        }
        sizes = {
            "n_train_volumes": [len(part.train) for part in split.folds],
            "n_val_volumes": [len(part.val) for part in split.folds],
        }
    found = {**sizes, **ids, "split_grouped": split.grouped}
    if split.test:
        found |= {"n_test_volumes": len(split.test), "test_volume_ids": split.test}
    if profile is not None:
        found |= _hashes(split, {volume.case: volume.content_hash for volume in profile.volumes})
    return {f"data_{name}": value for name, value in found.items()}


def _hashes(split: Split, contents: Mapping[str, str]) -> Params:
    """Hashes of the folds with their volumes' bytes, and of the test set's bytes."""
    folded = {case for fold in split.folds for case in (*fold.train, *fold.val)} | {*split.test}
    bytes_of = {case: contents[case] for case in sorted(folded)}
    test = {"test_set_hash": keys.digest(sorted(bytes_of[case] for case in split.test))}
    return {
        "split_hash": keys.digest([split.model_dump(mode="json"), bytes_of]),
        **(test if split.test else {}),
    }


def upstream_metrics(values: Mapping[str, float]) -> Params:
    """Return `upstream_<metric>`: metrics of the upstream run."""
    return {f"upstream_{name}": f"{value:.6g}" for name, value in values.items()}


def _bracketed(values: Iterable[float]) -> str:
    return f"({','.join(f'{value:g}' for value in values)})"
