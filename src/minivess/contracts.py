"""What crosses from one flow to another: closed records, fixed once made.

Axes are (x, y, z); tensors are (B, C, X, Y, Z). Paths inside records are relative to the
home folder, except in `Case` and `Member`, which never leave the process that made them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

Shape = tuple[int, int, int]
Spacing = tuple[float, float, float]
Severity = Literal["error", "warning", "info"]
SCHEMA_VERSION: Literal[1] = 1


class Contract(BaseModel):
    """A record whose fields are all known: a typo fails at the boundary, by name."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def replace(self, **changes: Any) -> Self:
        """A validated copy with some fields changed."""
        return type(self).model_validate({**self.model_dump(), **changes})


class Versioned(Contract):
    """A record stored for other processes and later releases."""

    schema_version: Literal[1] = SCHEMA_VERSION


# --- data ---------------------------------------------------------------------------------


class Case(Contract):
    """One image with its label, as files that can be opened now."""

    case: str
    image: Path
    label: Path | None
    group: str | None = None


class Pairing(Contract):
    """How the files of a folder were read, and what was left over."""

    layout: str = Field(description="images-labels, msd, nnunet, suffix or pattern")
    cases: tuple[Case, ...]
    unpaired_images: tuple[Path, ...] = ()
    unpaired_labels: tuple[Path, ...] = ()
    left: tuple[Path, ...] = Field(default=(), description="files that no rule read")
    notes: tuple[str, ...] = Field(
        default=(), description="what the user should know, a sentence each"
    )


class Finding(Contract):
    """One thing that a check noticed about one volume or about the whole set."""

    code: str
    severity: Severity
    case: str | None
    message: str
    remedy: str


class VolumeStats(Contract):
    """One volume in numbers, taken from its bytes; intensities are raw values."""

    case: str
    filename: str = Field(description="image, relative to the curated folder")
    label_filename: str
    group: str | None
    shape: Shape
    voxel_spacing: Spacing = Field(description="raw header values, in `unit`")
    unit: str
    dtype: str
    intensity_min: float
    intensity_max: float
    intensity_mean: float
    intensity_std: float
    percentiles: dict[str, float] = Field(description="keys: 0.5 5 25 50 75 95 99.5")
    foreground_ratio: float
    label_values: tuple[int, ...]
    components: int = Field(description="26-connected components of the foreground")
    size_bytes: int = Field(description="image and label files together")
    content_hash: str = Field(description="hash of the image's and the label's bytes")


class DatasetProfile(Versioned):
    """The dataset in numbers, after quarantine."""

    run_id: str | None = Field(default=None, description="MLflow run that holds this profile")
    dataset: str
    dataset_path: str = Field(description="where the originals lie")
    dataset_hash: str = Field(description="the md5 that DVC gives the curated folder, ends in .dir")
    curated: str = Field(description="curated folder, relative to home")
    dvc_file: str = Field(description="its .dvc file, relative to home")
    remote: str | None = Field(description="DVC remote that holds this version, if any")
    n_volumes: int
    min_shape: Shape
    max_shape: Shape
    median_shape: Shape
    spacing_range: tuple[Spacing, Spacing]
    is_anisotropic: bool
    total_size_gb: float = Field(description="as float32, image only")
    per_volume_mean_gb: float
    safe_patch_sizes: dict[str, Shape] = {}
    outliers: tuple[str, ...]
    warnings: tuple[str, ...]
    classes: tuple[int, ...] = Field(
        description="label values after the label map, with background 0"
    )
    label_map: dict[int, int]
    volumes: tuple[VolumeStats, ...]
    findings: tuple[Finding, ...]
    quarantined: tuple[str, ...] = ()

    @property
    def out_channels(self) -> int:
        """Classes, background included."""
        return len(self.classes)


class Fold(Contract):
    """One way to cut the set: case ids that train, and case ids that validate."""

    index: int
    train: tuple[str, ...]
    val: tuple[str, ...]


class Split(Versioned):
    """All folds of one seed; `test` is held out of every fold."""

    seed: int
    grouped: bool
    folds: tuple[Fold, ...]
    test: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


# --- network, loss, plan ------------------------------------------------------------------


class Limits(Contract):
    """What a model file says of its network instead of letting it be found."""

    divisibility_factor: Shape | None = None
    vram_per_voxel_train_bytes: float | None = None
    vram_base_mb: float | None = None
    max_patch_xy: int | None = None
    max_patch_z: int | None = None
    supports_amp: bool = True


class Network(Contract):
    """A network ready to build: every value resolved."""

    name: str = Field(description="file name in configs/models")
    family: str
    builder: str = Field(description="import path module:callable, called with this record")
    in_channels: int
    out_channels: int
    filters: tuple[int, ...]
    kernel_size: tuple[Shape, ...]
    strides: tuple[Shape, ...]
    norm: str
    deep_supervision: bool
    dropout: float
    arguments: dict[str, Any] = Field(default={}, description="what only this builder knows")
    limits: Limits = Limits()


class LossTerm(Contract):
    """One weighted part of a loss."""

    loss: str = Field(description="a built-in name, or an import path module:callable")
    weight: float = 1.0
    arguments: dict[str, Any] = {}


class Loss(Contract):
    """A loss to build: the weighted sum of its terms."""

    name: str = Field(description="file name in configs/losses")
    terms: tuple[LossTerm, ...]

    @property
    def formula(self) -> str:
        """For example `0.5*cbdice + 0.5*dice_ce_cldice`."""
        return " + ".join(f"{term.weight:g}*{term.loss}" for term in self.terms)


class Window(Contract):
    """How a network is run over a whole volume, everywhere in the same way."""

    patch_size: Shape
    overlap: float
    normalisation: Literal["zscore", "minmax", "none"]


class Hardware(Contract):
    """The machine as measured; sizes in GiB."""

    environment: Literal["local", "docker", "kubernetes", "cloud", "ci"]
    cpu_model: str
    cores: int = Field(description="usable, container limits respected")
    ram_total_gb: float
    ram_available_gb: float
    swap_total_gb: float
    swap_used_gb: float
    gpu_count: int
    gpu_model: str | None
    gpu_vram_gb: float | None
    gpu_free_gb: float | None
    gpu_driver: str | None
    disk_free_gb: float
    bf16_is_fast: bool
    shm_gb: float | None = Field(
        default=None, description="/dev/shm; loaders are threads and need none"
    )
    gpu_is_slice: bool = Field(default=False, description="a MIG slice of a larger GPU")


class Choice(Contract):
    """One value of the plan, why it is so, and the word that would override it."""

    value: Any
    reason: str
    override: str
    bound: str = Field(default="", description="the limit that it meets")
    more: str = Field(default="", description="what one more step would need")


class ComputePlan(Versioned):
    """Every automatic choice made, with its reason; stored with a cell before its first step."""

    tier: str
    device: str
    patch_size: Shape
    batch_size: int
    num_workers: int
    cache_rate: float
    mixed_precision: Literal["none", "bf16", "fp16"]
    threads: int
    iterations_per_epoch: int
    divisor: Shape
    predicted_memory_gb: float
    predicted_window_gb: float = Field(default=0.0, description="judging the largest volume")
    memory_budget_gb: float
    padded: dict[str, Shape] = Field(default={}, description="median_pad: case -> voxels added")
    choices: dict[str, Choice] = Field(description="one entry for each automatic value above")
    number: int = Field(default=1, description="plan 2 is one step smaller than plan 1, and so on")
    after_run: str | None = Field(
        default=None, description="the child run that ran out of memory with the plan before"
    )


class Forecast(Contract):
    """What the grid will cost on this machine, from a timed probe."""

    cells: int
    seconds_per_step: float
    seconds_per_epoch: float = Field(description="training steps and validation")
    total_hours: float
    ram_gb: float
    disk_gb: float
    method: str = Field(description="how it was measured, a sentence")


# --- results ------------------------------------------------------------------------------


class CellSpec(Versioned):
    """One cell of the grid: everything that decides its weights."""

    key: str
    model: str
    loss: Loss
    seed: int
    fold: Fold
    network: Network
    window: Window
    label_map: dict[int, int]
    classes: tuple[int, ...]
    test: tuple[str, ...] = ()


class VolumeMetrics(Contract):
    """The judgement of one predicted volume; None stands for an undefined value."""

    case: str
    group: str | None = None
    values: dict[str, float | None] = Field(description="dice, dice_class2, masd, ...")


class CellResult(Versioned):
    """What a finished cell left behind; file names are relative to its folder."""

    key: str
    best_epoch: int
    epochs: int
    stopped_early: bool
    training_time_seconds: float
    trainable_parameters: int
    best: dict[str, float] = Field(description="best value of val_loss and of the primary metric")
    untrained: dict[str, float] = Field(description="validation metrics before the first step")
    volumes: tuple[VolumeMetrics, ...] = Field(description="validation volumes, best checkpoint")
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


class Member(Contract):
    """A trained network on this machine, with the volumes it has seen and not seen."""

    run_id: str = Field(description="the child run")
    parent_run_id: str
    cell_key: str
    family: str = Field(description="run name of its parent: <model>_<loss>[_s<seed>]")
    spec: CellSpec
    checkpoint: Path
    trainable_parameters: int
    untrained: dict[str, float]


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


class Parity(Contract):
    """How far the exported network is from the trained one, over whole volumes."""

    volumes: tuple[str, ...]
    max_logit_difference: float
    mask_agreement: float
    passed: bool


class Engine(Contract):
    """One way to run the exported network on this machine."""

    name: str
    size_mb: float
    seconds_per_volume: float


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
    smoke: Smoke


# --- tracking -----------------------------------------------------------------------------


class RunRecord(Contract):
    """A run as MLflow holds it, in plain values."""

    run_id: str
    name: str
    experiment: str
    status: Literal["RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED"]
    start_time: int = Field(description="milliseconds since 1970, UTC")
    end_time: int | None
    artifact_uri: str
    params: dict[str, str]
    tags: dict[str, str]
    metrics: dict[str, float]
