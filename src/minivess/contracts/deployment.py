"""What flow 4 proves and serves."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from minivess.contracts.record import Contract, Shape, Spacing, Versioned


class Parity(Contract):
    """How far the exported network is from the trained one, over whole volumes."""

    volumes: tuple[str, ...]
    max_logit_difference: float
    relative_difference: float = Field(
        default=0.0, description="largest difference as a share of a volume's range of logits"
    )
    mask_agreement: float
    largest_margin: float = Field(
        default=0.0,
        description="of voxels whose class differs, the largest lead of the trained class",
    )
    passed: bool


class AliasMove(Contract):
    """One move of the alias `production`, as it stands in a tag of the registered model."""

    version: str
    before: str | None = Field(description="the version that was in production")
    kind: Literal["deploy", "promote", "rollback"]
    who: str
    why: str
    at: str = Field(description="ISO 8601, UTC")
    deployment_run_id: str
    analysis_run_id: str


class Domain(Contract):
    """The volumes that a network was trained on, in numbers that a new volume has as well."""

    spacing: tuple[Spacing, Spacing] = Field(description="smallest and largest, in `unit`")
    unit: str
    min_shape: Shape
    max_shape: Shape
    intensities: dict[str, tuple[float, float]] = Field(
        description="percentile -> its smallest and largest value over the volumes"
    )


EngineName = Literal["onnxruntime", "openvino"]


class Engine(Contract):
    """One way to run the exported network on this machine."""

    name: str
    precision: str = "fp32"
    size_mb: float
    seconds_per_volume: float
    mask_agreement: float | None = Field(default=None, description="with PyTorch, on one volume")


class Smoke(Contract):
    """The answer of the running service to one known volume."""

    case: str
    seconds: float
    mask_agreement: float
    lineage: dict[str, str]


class DeploymentResult(Versioned):
    """What flow 4 hands on."""

    run_id: str | None = None
    analysis_run_id: str
    model_name: str
    model_version: str
    bento_tag: str
    parity: Parity
    engines: tuple[Engine, ...]
    engine: EngineName = Field(default="onnxruntime", description="the one that serves")
    smoke: Smoke
