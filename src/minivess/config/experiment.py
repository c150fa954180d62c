"""The settings of an experiment, with every default."""

from __future__ import annotations

import re
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
    model_validator,
)

from minivess import units
from minivess.config.base import Auto, Part, each_once, not_in_key, setting
from minivess.config.catalog import refuse_fields
from minivess.config.contradictions import CONTRADICTIONS
from minivess.contracts import IGNORED, LabelMap, Normalisation, Resampling

Augmentation = Literal["none", "light", "full"]
SAMPLES = 4
FULL_FROM = 5000
"""Updates of a training from which on `auto` takes the full set."""


class ResamplingConfig(Part):
    """Off unless asked for: native resolution is a scientific decision."""

    enabled: bool = setting(False, "resample volumes when they are loaded")
    method: str | None = setting(None, "'spacing', or an import path module:callable")
    target_spacing: tuple[PositiveFloat, PositiveFloat, PositiveFloat] | None = setting(
        None, "voxel size (x, y, z) in the unit of the headers"
    )

    def as_record(self) -> Resampling | None:
        """The same as it stands in a model's record; None if volumes stay as they are."""
        if not self.enabled:
            return None
        return Resampling(method=self.method or "spacing", target_spacing=self.target_spacing)

    @classmethod
    def of(cls, record: Resampling | None) -> ResamplingConfig:
        """The setting that a model's record holds."""
        return cls() if record is None else cls(enabled=True, **record.model_dump())


class DataConfig(Part):
    """Where the volumes are and how file names are read."""

    root: Path | str | None = not_in_key(
        None, "folder of images and labels, or s3://bucket/folder; none means demo data"
    )
    name: str | None = not_in_key(None, "name of the dataset; none: the folder's")
    image: str | None = setting(None, "pattern of image files, *_img.nii.gz")
    label: str | None = setting(None, "pattern of label files, {case}_seg.nii.gz")
    group: str | None = setting(
        None,
        "volumes that stay together: prefix (the beginning that names share), a regex whose "
        "first group names them, or a JSON file",
    )
    spacing: tuple[PositiveFloat, PositiveFloat, PositiveFloat] | None = setting(
        None, "voxel size (x, y, z) of every file; none: as the files state"
    )
    unit: str | None = setting(None, "unit of data.spacing: micron, mm, nm, ...")
    label_map: LabelMap = setting(
        {}, "label value in the files -> class, 255: 1; or binary: all but 0 is 1"
    )
    ignore_label: int | None = setting(
        None, "label value of voxels that nobody annotated; they never count"
    )
    resampling: ResamplingConfig = ResamplingConfig()
    normalisation: Normalisation = setting(
        "zscore",
        "intensities before the network, each volume by itself; dataset: one scale, that of "
        "the training volumes, stored with the model",
    )
    strict: bool = setting(False, "stop at the first unusable volume")
    outlier_z: float = setting(6.0, "robust z-score that flags a volume", gt=0)
    analyzer: Literal["none", "monai"] = setting(
        "none", "monai: the YAML of MONAI's DataAnalyzer beside our own profile"
    )
    remote: str | None = not_in_key(None, "DVC remote (folder or URL); none: inside outputs/dvc")
    git_commit: bool = not_in_key(False, "commit each version's .dvc file to Git in outputs/dvc")
    time_limit_s: float = not_in_key(
        6 * 3600.0, "seconds that measuring, or versioning, may take before it fails", gt=0
    )
    watch_interval_s: float = not_in_key(3600.0, "seconds between two looks of `watch`", ge=1)
    demo_volumes: int = setting(12, "demo volumes to make", ge=4, le=200)
    demo_seed: int = setting(7, "seed of the demo volumes", ge=0)

    @field_validator("unit")
    @classmethod
    def _length(cls, unit: str | None) -> str | None:
        if unit is not None and units.in_micron(unit) is None:
            message = "no unit of length; give micron, mm, nm, cm, meter or inch"
            raise ValueError(message)
        return unit

    @property
    def labels(self) -> LabelMap:
        """What becomes of label values, the ignored one among them."""
        return self.label_map | ({} if self.ignore_label is None else {self.ignore_label: IGNORED})

    @field_validator("label_map", mode="before")
    @classmethod
    def _binary(cls, mapping: object) -> object:
        if isinstance(mapping, str) and mapping != "binary":
            message = "it takes label values and their classes, {255: 1}, or the word binary"
            raise ValueError(message)
        return {"*": 1} if mapping == "binary" else mapping

    @field_validator("label_map")
    @classmethod
    def _classes(cls, mapping: LabelMap) -> LabelMap:
        if bad := [new for new in mapping.values() if not 0 <= new < IGNORED]:
            message = f"{bad[0]} is no class, classes lie between 0 and {IGNORED - 1}"
            raise ValueError(message)
        return mapping

    @field_validator("root")
    @classmethod
    def _folder_or_address(cls, root: Path | str | None) -> Path | str | None:
        return Path(root) if isinstance(root, str) and "://" not in root else root

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str | None) -> str | None:
        if name is not None and not re.fullmatch(r"[^\W_.][^/\\\x00-\x1f]*", name):
            message = "begin with a letter or digit, and use no slash"
            raise ValueError(message)
        return name


class ComputeConfig(Part):
    """What the plan may use; `auto` means measured."""

    profile: str = not_in_key("auto", "tier: auto, cpu, gpu_low, ... or a file in configs/tiers")
    ram_gb: float | None = not_in_key(None, "use at most this much memory, GiB", gt=0)
    vram_gb: float | None = not_in_key(None, "use at most this much GPU memory, GiB", gt=0)
    patch_strategy: Literal["min_volume", "median_pad", "fixed"] = setting(
        "min_volume", "patch within the smallest volume; or pad the small ones; or as given"
    )


class TrainingConfig(Part):
    """The grid and the loop."""

    models: tuple[str, ...] = setting(
        ("dynunet",), "names of files in configs/models", min_length=1
    )
    losses: tuple[str, ...] = setting(
        ("dice_ce", "cbdice", "dice_ce_cldice", "cbdice_cldice"),
        "names of files in configs/losses",
        min_length=1,
    )
    axes: dict[str, tuple[Any, ...]] = setting(
        {},
        "fields of configs/models -> values, each combination a model of its own, "
        "filters: [[16, 32, 64], [32, 64, 128]]",
    )
    folds: int = setting(3, "cross-validation folds", ge=2)
    seeds: tuple[int, ...] = setting((42,), "one whole grid for each seed", min_length=1)
    splits: Path | None = setting(None, "JSON file of folds made elsewhere")
    stratify: Literal["none", "foreground"] = setting(
        "none", "foreground: every fold gets sparse and dense volumes alike"
    )
    test_fraction: float = setting(0.0, "share of volumes held out of all folds", ge=0, lt=0.9)
    max_epochs: int = setting(100, "passes over the training volumes", ge=1)
    extends: int | None = setting(
        None, "max_epochs of a finished training to go on from; none: from the start", ge=1
    )
    init: str | None = setting(
        None,
        "run id, NAME@alias or NAME/version of a model whose weights training begins with; "
        "none: random ones",
    )
    iterations_per_epoch: PositiveInt | Auto = setting(
        "auto",
        "optimizer steps in an epoch; auto: each patch sample once, more where volumes are large",
    )
    samples_per_volume: PositiveInt | Auto = setting(
        "auto", "patches drawn from each volume in an epoch; auto: 4, more from large volumes"
    )
    validation_interval: PositiveInt | Auto = setting(
        "auto", "epochs between judgements of the validation volumes; the last one is judged"
    )
    validation_share: Annotated[float, Field(gt=0, le=1)] | Auto = setting(
        "auto", "part of each validation volume that is judged after an epoch; whole at the end"
    )
    foreground_ratio: float = setting(0.67, "share of patches centred on foreground", ge=0, le=1)
    augment: Augmentation | Auto = setting(
        "light",
        "light: random flips, quarter turns, intensity changes; full: with free rotations, scaling "
        "and faults of microscopes; auto: full where a training is long",
    )
    patch_size: tuple[PositiveInt, PositiveInt, PositiveInt] | Auto = setting(
        "auto", "(x, y, z); given: used as it is"
    )
    batch_size: PositiveInt | Auto = setting("auto", "patches in a step")
    accumulation_steps: int = setting(1, "steps summed before an update", ge=1)
    learning_rate: float = setting(1e-3, "of the first epoch after the warm-up", gt=0)
    optimizer: Literal["adamw", "adam", "sgd", "muon"] = setting(
        "adamw",
        "how weights are updated; sgd: with Nesterov momentum; muon: kernels orthogonalised, "
        "the rest by adamw",
    )
    weight_decay: float = setting(1e-5, "pull of the weights towards 0", ge=0)
    scheduler: Literal["cosine", "poly", "constant"] = setting(
        "cosine", "course of the learning rate"
    )
    warmup_epochs: int = setting(0, "linear rise of the learning rate", ge=0)
    gradient_clip_val: float = setting(1.0, "norm; 0 means no clipping", ge=0)
    gradient_checkpointing: bool = setting(False, "recompute activations: less memory, more time")
    ema_decay: float = setting(0.0, "average of the weights; 0 means none", ge=0, lt=1)
    average_from: int | None = setting(
        None,
        "epoch, counted from 0, from which on weights are averaged: all alike, or the later ones "
        "more with training.ema_decay",
        ge=0,
    )
    early_stopping_patience: int = setting(
        0, "epochs without a better val_loss; 0 means never", ge=0
    )
    judged_epoch: Literal["last", "best"] = setting(
        "last",
        "weights that are judged, registered and served; best: of the epoch that did "
        "best on the fold's own validation volumes, which flatters the figures",
    )
    mixed_precision: Literal["auto", "none", "bf16", "fp16"] = setting(
        "auto", "numbers that a step computes in; none: float32"
    )
    sliding_window_overlap: float = setting(
        0.25, "share of a window that the next one repeats", ge=0, lt=1
    )
    prediction_window: tuple[PositiveInt, PositiveInt, PositiveInt] | Auto = setting(
        "auto", "(x, y, z) of the windows over a whole volume; auto: the patch"
    )
    mirroring: Literal["none", "plane", "all"] = setting(
        "none",
        "average the predictions of mirrored copies, along x and y (4 times the time) or "
        "all axes (8 times)",
    )
    cache_rate: Annotated[float, Field(ge=0, le=1)] | Auto = not_in_key(
        "auto", "share of volumes kept in memory, 0 to 1"
    )
    num_workers: NonNegativeInt | Auto = not_in_key("auto", "loader processes or threads")
    threads: PositiveInt | Auto = setting("auto", "threads of torch on the CPU")
    parallel_cells: PositiveInt | Auto = not_in_key(
        "auto", "cells trained side by side here, a process each; auto: one for each GPU"
    )
    processes_per_cell: int = not_in_key(
        1, "processes that share each batch of a cell, through torchrun; a GPU each", ge=1
    )
    deployment: str | None = not_in_key(
        None, "Prefect deployment that trains cells on its work pool: train-cell/local"
    )
    device: Literal["auto", "cpu", "cuda"] = not_in_key("auto", "where cells train")
    figure_interval: int = not_in_key(10, "epochs between prediction images", ge=1)
    refit: Literal["none", "all"] = not_in_key(
        "none", "all: after the analysis, train the champion on all volumes, never scored"
    )
    retrain: Literal["if_changed", "always", "never"] = not_in_key(
        "if_changed", "train cells whose key is already FINISHED: only if changed, always, never"
    )

    _each_once = field_validator("models", "losses", "axes", "seeds")(each_once)

    @field_validator("augment", mode="before")
    @classmethod
    def _on_or_off(cls, augment: object) -> object:
        return {"true": "light", "false": "none"}.get(str(augment).lower(), augment)

    def augmentation(self, iterations: int) -> Augmentation:
        """The set in use, `auto` resolved, where an epoch has so many updates."""
        if self.augment != "auto":
            return self.augment
        return "full" if self.max_epochs * iterations >= FULL_FROM else "light"

    @property
    def samples(self) -> int:
        """Patches of each volume before any is drawn again."""
        return SAMPLES if self.samples_per_volume == "auto" else self.samples_per_volume

    @property
    def averages(self) -> bool:
        """Whether averaged weights are judged."""
        return self.ema_decay > 0 or self.average_from is not None

    @field_validator("axes")
    @classmethod
    def _fields_of_networks(cls, axes: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        for name, values in axes.items():
            for value in values:
                refuse_fields({name: value}, "training.axes.", info.context)
        return axes


class Dimension(Part):
    """The values that one setting may take in a search: a range, or choices."""

    low: int | float | None = None
    high: int | float | None = None
    step: int | float | None = Field(default=None, gt=0)
    log: bool = setting(False, "as likely between 0.001 and 0.01 as up to 0.1")
    choices: tuple[Any, ...] | None = Field(default=None, min_length=1)

    _each_once = field_validator("choices")(each_once)

    @property
    def ends(self) -> tuple[Any, ...]:
        """Its choices, or the two ends of its range."""
        return (self.low, self.high) if self.choices is None else self.choices

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        ranged = self.low is not None and self.high is not None
        if ranged == (self.choices is not None) or (ranged and not self.low < self.high):  # type: ignore[operator]
            message = "give low and high, low below high, or choices"
            raise ValueError(message)
        if self.log and (self.step is not None or not ranged or self.low <= 0):  # type: ignore[operator]
            message = "log needs low and high above 0, and no step"
            raise ValueError(message)
        return self


class SearchConfig(Part):
    """What `search` tries, one trial after another; each is one model, loss and seed."""

    space: dict[str, Dimension] = setting(
        {}, "setting -> values, training.learning_rate: {low: 1e-4, high: 0.1}"
    )
    trials: int = not_in_key(20, "how many; more of them continue a search that is done", ge=1)
    metric: Literal["compound_masd_cldice", "dice", "cldice"] = setting(
        "compound_masd_cldice", "mean over all folds, to be as high as possible"
    )
    sampler: Literal["tpe", "random"] = setting("tpe", "tpe learns from the trials before")
    sampler_seed: int = setting(42, "of the sampler", ge=0)
    pruner: Literal["median", "none"] = setting(
        "median", "median: stop a trial that is worse than half of the others"
    )
    startup_trials: int = setting(
        5, "trials before any is pruned and before tpe learns from them", ge=1
    )

    @field_validator("space")
    @classmethod
    def _fields_of_networks(
        cls, space: dict[str, Dimension], info: ValidationInfo
    ) -> dict[str, Dimension]:
        for key, dimension in space.items():
            part, _, name = key.partition(".")
            for value in dimension.ends if part == "model" and name else ():
                refuse_fields({name: value}, "search.space.model.", info.context)
        return space


class EvaluationConfig(Part):
    """How predictions are judged, in training and in analysis alike."""

    interval_epochs: int = setting(5, "epochs between topology metrics", ge=1)
    masd_cap: float = setting(50.0, "m of the compound metric, voxels", gt=0)
    nsd_tolerance: float = setting(1.0, "voxels", gt=0)
    ci_method: Literal["studentized", "percentile"] = setting(
        "studentized", "bootstrap of the intervals; percentile is too narrow below 30 volumes"
    )
    bootstrap_n: int = setting(1000, "resamples for intervals", ge=100)
    ci_level: float = setting(0.95, "of the intervals", gt=0.5, lt=1)


class AnalysisConfig(Part):
    """What flow 3 does beyond judging each family."""

    metric: Literal["compound_masd_cldice", "dice", "cldice", "nsd", "masd", "hd95"] = setting(
        "compound_masd_cldice", "metric by whose mean the champion is chosen"
    )
    ties: Literal["smaller", "mean"] = setting(
        "smaller", "who wins where a lead may be chance: fewer parameters, or the better mean"
    )
    ensembles: tuple[Literal["mean", "vote", "soup", "greedy"], ...] = setting(
        ("mean",), "ways to combine families: probabilities, votes, weights, a nested choice"
    )
    eligible: tuple[Literal["families", "ensembles"], ...] = setting(
        ("families",), "who can be champion", min_length=1
    )
    kept_gb: float = not_in_key(20.0, "disk for predicted probabilities, oldest go first", ge=0)
    figures: int = setting(6, "volumes shown in the report, worst first", ge=1)

    _each_once = field_validator("ensembles", "eligible")(each_once)


class DeploymentConfig(Part):
    """What a champion must pass before it serves."""

    target: Literal["local"] = setting("local", "where the service runs")
    parity_volumes: int = setting(3, "whole volumes compared", ge=3)
    max_logit_difference: float = setting(
        1e-3, "between torch and ONNX, as a share of the range of a volume's logits", gt=0
    )
    min_mask_agreement: float = setting(
        0.9999, "share of voxels with one class in torch and ONNX", gt=0, le=1
    )
    engine: Literal["auto", "onnxruntime", "openvino"] = setting(
        "auto", "what runs the network in the service; auto: the fastest that is installed"
    )
    out_of_range: Literal["warn", "refuse"] = setting(
        "warn", "what service and predict do with a volume unlike those trained on"
    )
    start_timeout_s: int = not_in_key(180, "seconds until the service must answer", ge=5)


class TrackingConfig(Part):
    """Where runs are kept."""

    uri: str | None = not_in_key(None, "MLflow store; none: SQLite in outputs")
    artifact_root: str | None = not_in_key(None, "artifacts of new experiments; none: in outputs")
    log_system_metrics: bool = not_in_key(True, "CPU, memory, disk, network, GPU of each run")
    system_metrics_interval_s: float = not_in_key(10.0, "seconds between samples", gt=0)


Stage = Literal["profile", "train", "analyse", "deploy"]


class ExperimentConfig(Part):
    """All settings of an experiment; this class holds every default."""

    name: str | None = not_in_key(
        None, "MLflow experiment, {dataset} stands for the dataset's name; none: that name"
    )
    flows: tuple[Stage, ...] = not_in_key(
        ("profile", "train", "analyse", "deploy"), "stages that `experiment` runs, in order"
    )
    hours: float | None = not_in_key(
        None, "hours for the grid: epochs and folds are fitted to them by the forecast", gt=0
    )
    data: DataConfig = DataConfig()
    compute: ComputeConfig = ComputeConfig()
    model: dict[str, Any] = setting(
        {}, "fields of configs/models set for every model, filters: [8, 16]"
    )
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    search: SearchConfig = SearchConfig()
    analysis: AnalysisConfig = AnalysisConfig()
    deployment: DeploymentConfig = DeploymentConfig()
    tracking: TrackingConfig = TrackingConfig()

    _each_once = field_validator("flows")(each_once)

    @field_validator("model")
    @classmethod
    def _fields_of_networks(cls, fields: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        refuse_fields(fields, "model.", info.context)
        return fields

    @model_validator(mode="after")
    def _refuse_contradictions(self, info: ValidationInfo) -> Self:
        for clash in () if (info.context or {}).get("loose") else CONTRADICTIONS:
            if clash.holds(self):
                raise ValueError(f"{clash.problem} {clash.remedy}")
        return self

    @property
    def dataset(self) -> str:
        """The dataset's name: `data.name`, else the folder's, or `demo`."""
        root = self.data.root
        return self.data.name or (
            PurePath(root).name if isinstance(root, str) else root.resolve().name if root else DEMO
        )

    @property
    def experiment(self) -> str:
        """The MLflow experiment of flow 2."""
        return (self.name or "{dataset}").replace("{dataset}", self.dataset)


DEMO = "demo"
