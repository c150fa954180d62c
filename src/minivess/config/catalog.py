"""Models, losses and hardware tiers read from configs/."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from pydantic import Field

from minivess.config.base import Auto, Part
from minivess.config.complaints import Kind, nowhere, validated
from minivess.config.files import find, read_yaml
from minivess.contracts import LossTerm, Shape
from minivess.errors import UsageError


class ModelConfig(Part):
    """A file in configs/models."""

    name: str
    family: str
    builder: str
    filters: tuple[int, ...] = Field(min_length=1)
    kernel_size: int | tuple[Shape, ...] = 3
    strides: tuple[Shape, ...] | Auto | Literal["own"] = "auto"
    norm: str = "instance"
    deep_supervision: bool = False
    dropout: float = Field(default=0.0, ge=0, lt=1)
    arguments: dict[str, Any] = Field(default={})
    divisibility_factor: int | Shape | None = None
    vram_per_voxel_train_bytes: float | None = Field(default=None, gt=0)
    vram_base_mb: float | None = Field(default=None, gt=0)
    max_patch_xy: int | None = Field(default=None, ge=1)
    max_patch_z: int | None = Field(default=None, ge=1)
    supports_amp: bool = True


class LossConfig(Part):
    """A file in configs/losses."""

    name: str
    terms: tuple[LossTerm, ...] = Field(min_length=1)


class TierConfig(Part):
    """A file in configs/tiers: the budget a plan starts from."""

    name: str
    batch_size: int = Field(ge=1)
    patch_size: Shape
    num_workers: int = Field(ge=0)
    mixed_precision: bool


def model(
    name: str, changes: Mapping[str, Any] | None = None, *, file: str | None = None
) -> ModelConfig:
    """Read configs/models/<file or name>.yaml, with the experiment's changes over it."""
    return _read(ModelConfig, "models", name, changes or {}, file=file)


def loss(name: str) -> LossConfig:
    """Read configs/losses/<name>.yaml."""
    return _read(LossConfig, "losses", name)


def tier(name: str) -> TierConfig:
    """Read configs/tiers/<name>.yaml."""
    return _read(TierConfig, "tiers", name)


def refuse_fields(changes: Mapping[str, Any], prefix: str, context: Any) -> None:
    """Reject fields that no file in configs/models may hold; `prefix` is where they are set."""
    where = (context or {}).get("where", nowhere)
    least = {"name": "any", "family": "any", "builder": "any", "filters": [1]}
    validated(ModelConfig, {**least, **changes}, lambda key: f"{where(prefix + key)}{prefix}")


def _read(
    kind: type[Kind],
    shelf: str,
    name: str,
    changes: Mapping[str, Any] = MappingProxyType({}),
    *,
    file: str | None = None,
) -> Kind:
    path = find(shelf, file or name)
    return validated(
        kind,
        {"name": name, **read_yaml(path), **changes},
        lambda key: (
            f"{name}, as set here: model." if key.partition(".")[0] in changes else f"{path}: "
        ),
    )


def imported(path: str) -> Any:
    """Import the object behind a path module:name, as YAML files hold them.

    Raises:
        UsageError: no such module or name.
    """
    module, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(
            f"{path!r} cannot be imported: {error}.",
            remedy="write an import path such as package.module:name, and install its package",
        ) from error
