"""What flow 3 judges and hands on."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from minivess.contracts.record import Contract, Versioned
from minivess.contracts.training import VolumeMetrics


class Interval(Contract):
    """A mean with its confidence interval, or the range of what is too little for one."""

    mean: float | None
    lower: float | None
    upper: float | None
    level: float = Field(description="how often such bounds hold the truth")
    n: int = Field(description="values that are defined")
    n_undefined: int = Field(default=0, description="values left out: no distance to an empty mask")
    n_units: int = Field(default=0, description="independent pieces of evidence: groups or volumes")
    method: Literal["studentized", "percentile", "range"] = "percentile"

    @property
    def called(self) -> str:
        """What the bounds are: `95 % CI`, or `range of 3` where 3 are too few for an interval."""
        ranged = self.method == "range"
        return f"range of {self.n_units}" if ranged else f"{100 * self.level:g} % CI"


class Scores(Contract):
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
    families: tuple[Scores, ...]
    ensembles: tuple[Scores, ...]
    untrained: dict[str, float]
    champion: Champion
    test: tuple[Scores, ...] = Field(
        default=(),
        description="families and ensembles on the held-out test set, which chose nothing: "
        "each volume by each fold's network, its values averaged",
    )
    notes: tuple[str, ...] = Field(
        default=(), description="what was left out and why, a sentence each"
    )

    @property
    def winner(self) -> Scores:
        """The champion's scores out of fold."""
        return next(one for one in self.families if one.name == self.champion.family)

    @property
    def winner_on_test(self) -> Scores | None:
        """The champion's scores on the held-out test set, if there is one."""
        return next((one for one in self.test if one.name == self.champion.family), None)
