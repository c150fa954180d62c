"""What flow 3 judges and hands on."""

from __future__ import annotations

from pydantic import Field

from minivess.contracts.record import Contract, Versioned
from minivess.contracts.training import VolumeMetrics


class Interval(Contract):
    """A mean with its bootstrap confidence interval."""

    mean: float | None
    lower: float | None
    upper: float | None
    level: float
    n: int


class Judged(Contract):
    """One family or ensemble, judged on volumes that its members did not train on."""

    name: str
    members: tuple[str, ...] = Field(description="families that it averages")
    trainable_parameters: int
    intervals: dict[str, Interval]
    volumes: tuple[VolumeMetrics, ...]


class Champion(Contract):
    """The winning family and the sentence that says why."""

    family: str
    run_id: str = Field(description="its parent training run")
    metric: str
    value: float
    reason: str
    model_name: str | None = None
    model_version: str | None = None


class AnalysisResult(Versioned):
    """What flow 3 hands on."""

    run_id: str | None = None
    experiment: str
    dataset_hash: str
    training_run_ids: tuple[str, ...]
    families: tuple[Judged, ...]
    ensembles: tuple[Judged, ...]
    untrained: dict[str, float]
    champion: Champion
    notes: tuple[str, ...] = Field(
        default=(), description="what was left out and why, a sentence each"
    )
