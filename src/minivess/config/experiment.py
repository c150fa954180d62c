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
Sides = tuple[PositiveInt, PositiveInt, PositiveInt]
SAMPLES = 4


class ResamplingConfig(Part):
    """Off unless asked for: native resolution is a scientific decision."""

    enabled: bool = False
    method: str | None = None
    target_spacing: tuple[PositiveFloat, PositiveFloat, PositiveFloat] | None = None

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

    root: Path | str | None = not_in_key(None)
    name: str | None = not_in_key(None)
    image: str | None = None
    label: str | None = None
    group: str | None = None
    spacing: tuple[PositiveFloat, PositiveFloat, PositiveFloat] | None = None
    unit: str | None = None
    label_map: LabelMap = setting({})
    ignore_label: int | None = None
    resampling: ResamplingConfig = ResamplingConfig()
    normalisation: Normalisation = "zscore"
    strict: bool = False
    outlier_z: float = setting(6.0, gt=0)
    analyzer: Literal["none", "monai"] = "none"
    remote: str | None = not_in_key(None)
    git_commit: bool = not_in_key(False)
    time_limit_s: float = not_in_key(6 * 3600.0, gt=0)
    watch_interval_s: float = not_in_key(3600.0, ge=1)
    demo_volumes: int = setting(12, ge=4, le=200)
    demo_seed: int = setting(7, ge=0)

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

    profile: str = not_in_key("auto")
    ram_gb: float | None = not_in_key(None, gt=0)
    vram_gb: float | None = not_in_key(None, gt=0)
    patch_strategy: Literal["min_volume", "median_pad", "fixed"] = "min_volume"


class TrainingConfig(Part):
    """The grid and the loop."""

    models: tuple[str, ...] = setting(("dynunet",), min_length=1)
    losses: tuple[str, ...] = setting(
        ("dice_ce", "cbdice", "dice_ce_cldice", "cbdice_cldice"), min_length=1
    )
    axes: dict[str, tuple[Any, ...]] = setting({})
    folds: int = setting(3, ge=2)
    seeds: tuple[int, ...] = setting((42,), min_length=1)
    splits: Path | None = None
    stratify: Literal["none", "foreground"] = "none"
    test_fraction: float = setting(0.0, ge=0, lt=0.9)
    max_epochs: int = setting(100, ge=1)
    extends: int | None = setting(None, ge=1)
    init: str | None = None
    iterations_per_epoch: PositiveInt | Auto = "auto"
    samples_per_volume: PositiveInt | Auto = "auto"
    validation_interval: PositiveInt | Auto = "auto"
    validation_share: Annotated[float, Field(gt=0, le=1)] | Auto = "auto"
    foreground_ratio: float = setting(0.67, ge=0, le=1)
    augment: Augmentation = "light"
    patch_size: Sides | Auto = "auto"
    patch_schedule: tuple[Sides, ...] | Literal["none", "growing"] = "none"
    batch_size: PositiveInt | Auto = "auto"
    accumulation_steps: int = setting(1, ge=1)
    learning_rate: float = setting(1e-3, gt=0)
    optimizer: Literal["adamw", "adam", "sgd", "muon"] = "adamw"
    weight_decay: float = setting(1e-5, ge=0)
    scheduler: Literal["cosine", "poly", "constant"] = "cosine"
    warmup_epochs: int = setting(0, ge=0)
    gradient_clip_val: float = setting(1.0, ge=0)
    gradient_checkpointing: bool = False
    ema_decay: float = setting(0.0, ge=0, lt=1)
    average_from: int | None = setting(None, ge=0)
    early_stopping_patience: int = setting(0, ge=0)
    judged_epoch: Literal["last", "best"] = "last"
    mixed_precision: Literal["auto", "none", "bf16", "fp16"] = "auto"
    sliding_window_overlap: float = setting(0.25, ge=0, lt=1)
    prediction_window: Sides | Auto = "auto"
    mirroring: Literal["none", "plane", "all"] = "none"
    cache_rate: Annotated[float, Field(ge=0, le=1)] | Auto = not_in_key("auto")
    num_workers: NonNegativeInt | Auto = not_in_key("auto")
    threads: PositiveInt | Auto = "auto"
    parallel_cells: PositiveInt | Auto = not_in_key("auto")
    processes_per_cell: int = not_in_key(1, ge=1)
    deployment: str | None = not_in_key(None)
    slots: str | None = not_in_key(None)
    time_limit_s: PositiveInt | Auto | None = not_in_key("auto")
    device: Literal["auto", "cpu", "cuda"] = not_in_key("auto")
    figure_interval: int = not_in_key(10, ge=1)
    refit: Literal["none", "all"] = not_in_key("none")
    retrain: Literal["if_changed", "always", "never"] = not_in_key("if_changed")

    _each_once = field_validator("models", "losses", "axes", "seeds")(each_once)

    @field_validator("augment", mode="before")
    @classmethod
    def _on_or_off(cls, augment: object) -> object:
        return {"true": "light", "false": "none"}.get(str(augment).lower(), augment)

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
    log: bool = False
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

    space: dict[str, Dimension] = setting({})
    trials: int = not_in_key(20, ge=1)
    hours: float | None = not_in_key(None, gt=0)
    metric: Literal["compound_masd_cldice", "dice", "cldice"] = "compound_masd_cldice"
    sampler: Literal["tpe", "random"] = "tpe"
    sampler_seed: int = setting(42, ge=0)
    pruner: Literal["median", "none"] = "median"
    startup_trials: int = setting(5, ge=1)

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

    interval_epochs: int = setting(5, ge=1)
    masd_cap: float = setting(50.0, gt=0)
    nsd_tolerance: float = setting(1.0, gt=0)
    fault_length: float = setting(2.0, ge=0)
    ci_method: Literal["studentized", "percentile"] = "studentized"
    bootstrap_n: int = setting(1000, ge=100)
    ci_level: float = setting(0.95, gt=0.5, lt=1)


class AnalysisConfig(Part):
    """What flow 3 does beyond judging each family."""

    metric: Literal[
        "compound_masd_cldice", "dice", "cldice", "nsd", "masd", "hd95", "betti0_error",
        "betti1_error", "junction_error",
    ] = "compound_masd_cldice"  # fmt: skip
    ties: Literal["smaller", "mean"] = "smaller"
    ensembles: tuple[Literal["mean", "vote", "soup", "greedy"], ...] = ("mean",)
    eligible: tuple[Literal["families", "ensembles"], ...] = setting(("families",), min_length=1)
    alpha: float = setting(0.2, gt=0, lt=1)
    uncertainty_maps: bool = False
    kept_gb: float = not_in_key(20.0, ge=0)
    figures: int = setting(6, ge=1)

    _each_once = field_validator("ensembles", "eligible")(each_once)


class DeploymentConfig(Part):
    """What a champion must pass before it serves."""

    target: Literal["local"] = "local"
    parity_volumes: int = setting(3, ge=3)
    max_logit_difference: float = setting(1e-3, gt=0)
    min_mask_agreement: float = setting(0.9999, gt=0, le=1)
    engine: Literal["auto", "onnxruntime", "openvino"] = "auto"
    out_of_range: Literal["warn", "refuse"] = "warn"
    request_limit_s: float = setting(600.0, gt=0)
    start_timeout_s: int = not_in_key(180, ge=5)


class TrackingConfig(Part):
    """Where runs are kept."""

    uri: str | None = not_in_key(None)
    artifact_root: str | None = not_in_key(None)
    log_system_metrics: bool = not_in_key(True)
    system_metrics_interval_s: float = not_in_key(10.0, gt=0)


Stage = Literal["profile", "train", "analyse", "deploy"]


class ExperimentConfig(Part):
    """All settings of an experiment; this class holds every default."""

    name: str | None = not_in_key(None)
    flows: tuple[Stage, ...] = not_in_key(("profile", "train", "analyse", "deploy"))
    hours: float | None = not_in_key(None, gt=0)
    data: DataConfig = DataConfig()
    compute: ComputeConfig = ComputeConfig()
    model: dict[str, Any] = setting({})
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
