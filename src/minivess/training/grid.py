"""Expand the grid into cells and their content keys. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import chain, product
from typing import Any

from pydantic import BaseModel

from minivess import config as configs
from minivess import keys
from minivess.config import ExperimentConfig, ModelConfig
from minivess.contracts import Fold, LabelMap, Loss

# The grid's own lists and what only decides the folds: a cell holds one of each instead.
GRID_FIELDS = frozenset(
    {"models", "axes", "losses", "seeds", "folds", "splits", "stratify", "test_fraction"}
)


def families(config: ExperimentConfig) -> list[tuple[ModelConfig, str, int]]:
    """Every (model, loss, seed), in the order in which the lists were written."""
    grid = config.training
    return list(product(models(config), grid.losses, grid.seeds))


def models(config: ExperimentConfig) -> list[ModelConfig]:
    """Every model at every combination of the axes, which its name then tells.

    For example `dynunet-filters-16-32-64-dropout-0.2`.
    """
    axes = config.training.axes
    return [
        configs.model(
            "-".join(_words([name, *zip(axes, values, strict=True)])),
            {**config.model, **dict(zip(axes, values, strict=True))},
            file=name,
        )
        for name in config.training.models
        for values in product(*axes.values())
    ]


def _words(value: Any) -> Iterator[str]:
    """`["dynunet", ("filters", [16, 32])]` -> dynunet, filters, 16, 32."""
    if isinstance(value, Mapping):
        yield from _words(list(value.items()))
    elif isinstance(value, list | tuple):
        yield from chain.from_iterable(map(_words, value))
    else:
        yield str(value)


def run_name(model: str, loss: str, seed: int, seeds: Sequence[int]) -> str:
    """`<model>_<loss>`, and `_s<seed>` where there are several seeds."""
    return f"{model}_{loss}" + (f"_s{seed}" if len(seeds) > 1 else "")


def cell_ingredients(
    config: ExperimentConfig,
    *,
    profile_hash: str,
    label_map: LabelMap,
    classes: Sequence[int],
    fold: Fold,
    seed: int,
    network: BaseModel | Mapping[str, Any],
    loss: Loss,
) -> keys.Ingredients:
    """All that decides the weights of one cell, as JSON; `keys.digest` of it is the cell's key.

    `profile_hash` is the hash of the curated data. The order of a fold's ids does not count, and
    neither does what a model is called.
    """
    asked = config.training.key_fields()
    asked["init"] = asked["init"] and asked["init"].rpartition(":")[2]  # the hash of the weights
    net = network.model_dump(mode="json") if isinstance(network, BaseModel) else dict(network)
    net.pop("name", None)
    resampling = config.data.resampling
    return {
        "data": {
            "dataset_hash": profile_hash,
            "label_map": {str(raw): value for raw, value in label_map.items()},
            "classes": list(classes),
            "normalisation": config.data.normalisation,
            "resampling": resampling.key_fields(),
        },
        "fold": {"train": sorted(fold.train), "val": sorted(fold.val)},
        "seed": seed,
        "network": net,
        "loss": loss.model_dump(mode="json"),
        "training": {name: value for name, value in asked.items() if name not in GRID_FIELDS},
        "compute": config.compute.key_fields(),
        "evaluation": config.evaluation.key_fields(),
        **_software(),
        "own_modules": keys.own_modules(_import_paths(net, loss, resampling.method)),
    }


@cache
def _software() -> keys.Ingredients:
    # Parsing the sources takes a third of a second, and this process runs what it has imported.
    return {"code": keys.code(keys.CELL_CODE), "versions": keys.versions()}


def _import_paths(network: Mapping[str, Any], loss: Loss, resampling: str | None) -> list[str]:
    named = [network.get("builder"), resampling, *(term.loss for term in loss.terms)]
    return [path for path in named if path and ":" in path]
