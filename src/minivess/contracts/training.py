"""What flow 2 trains, leaves behind and hands on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import AliasChoices, Field

from minivess.contracts.data import IGNORED, DatasetProfile, Fold, LabelMap
from minivess.contracts.network import Loss, Network, Window
from minivess.contracts.plan import ComputePlan, Forecast
from minivess.contracts.record import Contract, Shape, Versioned


class CellSpec(Versioned):
    """One cell of the grid: everything that decides its weights."""

    key: str
    model: str
    loss: Loss
    seed: int
    fold: Fold
    network: Network
    window: Window
    label_map: LabelMap
    classes: tuple[int, ...]
    test: tuple[str, ...] = ()
    patch_size: Shape | None = Field(
        default=None, description="of training; none in older runs: that of the windows"
    )

    @property
    def patch(self) -> Shape:
        """The patch of training."""
        return self.patch_size or self.window.patch_size

    @property
    def ignores(self) -> bool:
        """Whether labels may hold voxels without annotation."""
        return IGNORED in self.label_map.values()


class VolumeMetrics(Contract):
    """The judgement of one predicted volume; None stands for an undefined value."""

    case: str
    group: str | None = None
    values: dict[str, float | None] = Field(description="dice, dice_class2, masd, ...")


class CellResult(Versioned):
    """What a finished cell left behind; file names are relative to its folder."""

    key: str
    judged_epoch: int = Field(
        description="counted from 0; `best_epoch` in earlier releases, where the best was judged",
        validation_alias=AliasChoices("judged_epoch", "best_epoch"),
    )
    epochs: int
    stopped_early: bool
    training_time_seconds: float
    time_shares: dict[str, float] = Field(
        description="share of the loop's wall time: steps, prediction, metrics, figures, "
        "checkpoints, tracking; metrics_beside: processor time of threads, on top of it"
    )
    trainable_parameters: int
    best: dict[str, float] = Field(description="best value of val_loss and of the primary metric")
    untrained: dict[str, float] = Field(description="validation metrics before the first step")
    volumes: tuple[VolumeMetrics, ...] = Field(
        description="validation volumes, by the judged weights"
    )
    checkpoint: str = Field(description="the checkpoint that was judged")
    files: dict[str, int] = Field(description="file name -> bytes")


class FamilyRun(Contract):
    """One parent run: a model x loss x seed over its folds."""

    run_id: str
    run_name: str
    experiment_name: str
    artifact_uri: str
    model: str
    loss: str
    seed: int
    key: str
    cells: tuple[str, ...] = Field(description="cell keys in fold order")
    child_run_ids: tuple[str, ...]
    metrics: dict[str, float]


class TrainingResult(Versioned):
    """What flow 2 hands on."""

    experiment: str
    data_profile_run_id: str
    dataset_hash: str
    families: tuple[FamilyRun, ...]

    @property
    def run_ids(self) -> tuple[str, ...]:
        """The parent runs."""
        return tuple(family.run_id for family in self.families)


class FoldModel(Contract):
    """A trained network on this machine, with the volumes it has seen and not seen."""

    run_id: str = Field(description="the child run")
    parent_run_id: str
    cell_key: str
    family: str = Field(description="run name of its parent: <model>_<loss>[_s<seed>]")
    spec: CellSpec
    checkpoint: Path
    stopped_early: bool = False
    trainable_parameters: int
    untrained: dict[str, float]
    seconds: float | None = Field(default=None, description="of its training")
    history: tuple[dict[str, Any], ...] = Field(default=(), description="epochs with their metrics")
    params: dict[str, str] = Field(default={}, description="of its run")
    settings: dict[str, Any] = Field(
        default={}, description="parts of its key: training, resampling"
    )


class CellOrder(Versioned):
    """One cell for another process to train; all that it needs to find in MLflow what we see."""

    settings: dict[str, Any] = Field(description="differences from the defaults")
    data_profile_run_id: str
    parent_run_id: str
    family: str = Field(description="run name of the parent: <model>_<loss>[_s<seed>]")
    fold: int
    launched_by: str = "cli"
    json_output: bool = Field(default=False, description="keep standard output for the coordinator")
    quiet: bool = Field(default=False, description="print warnings only")
    profile: DatasetProfile | None = Field(default=None, description="none: read it in MLflow")
    plan: ComputePlan | None = Field(default=None, description="none: plan on that machine")
    cost: Forecast | None = None
