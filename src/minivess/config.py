"""One configuration: defaults here, differences in YAML, then `key=value` words.

Later files win over earlier ones, standard environment variables over files, words over all.
This is the only module that reads the environment.
"""

from __future__ import annotations

import difflib
import importlib
import json
import os
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from minivess.contracts import LossTerm, Shape, Spacing
from minivess.errors import UsageError

Auto = Literal["auto"]


def uncounted(default: Any, description: str, **limits: Any) -> Any:
    """A field that changes no result, so it is left out of content keys."""
    return Field(
        default=default, description=description, json_schema_extra={"counts": False}, **limits
    )


class Part(BaseModel):
    """One level of the configuration: closed and fixed."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    def counted(self) -> dict[str, Any]:
        """The fields that decide results, as JSON values, for content keys."""
        return {
            name: getattr(self, name).counted()
            if isinstance(getattr(self, name), Part)
            else self.model_dump(mode="json")[name]
            for name, field in type(self).model_fields.items()
            if _counts(field)
        }


class ResamplingConfig(Part):
    """Off unless asked for: native resolution is a scientific decision."""

    enabled: bool = Field(default=False, description="resample volumes when they are loaded")
    method: str | None = Field(
        default=None, description="'spacing', or an import path module:callable"
    )
    target_spacing: Spacing | None = Field(
        default=None, description="voxel size (x, y, z) in the unit of the headers"
    )


class DataConfig(Part):
    """Where the volumes are and how file names are read."""

    root: Path | None = uncounted(None, "folder of images and labels; none means demo data")
    image: str | None = Field(default=None, description="pattern of image files, *_img.nii.gz")
    label: str | None = Field(default=None, description="pattern of label files, {case}_seg.nii.gz")
    group: str | None = Field(
        default=None, description="regex whose first group names the group, or a JSON file"
    )
    label_map: dict[int, int] = Field(
        default={}, description="label value in the files -> class, 255: 1"
    )
    resampling: ResamplingConfig = ResamplingConfig()
    normalisation: Literal["zscore", "minmax", "none"] = Field(
        default="zscore", description="intensities of each volume, before the network"
    )
    strict: bool = Field(default=False, description="stop at the first unusable volume")
    outlier_z: float = Field(default=6.0, gt=0, description="robust z-score that flags a volume")
    remote: str | None = uncounted(None, "DVC remote (folder or URL); none: inside outputs/dvc")
    git_commit: bool = uncounted(False, "commit each version's .dvc file to Git in outputs/dvc")
    watch_interval_s: float = uncounted(3600.0, "seconds between two looks of `watch`", ge=1)
    demo_volumes: int = Field(default=12, ge=4, le=200, description="demo volumes to make")
    demo_seed: int = Field(default=7, ge=0, description="seed of the demo volumes")


class ComputeConfig(Part):
    """What the plan may use; `auto` means measured."""

    profile: str = uncounted("auto", "tier: auto, cpu, gpu_low, ... or a file in configs/tiers")
    ram_gb: float | None = uncounted(None, "use at most this much memory, GiB", gt=0)
    vram_gb: float | None = uncounted(None, "use at most this much GPU memory, GiB", gt=0)
    patch_strategy: Literal["min_volume", "median_pad", "fixed"] = Field(
        default="min_volume",
        description="patch within the smallest volume; or pad the small ones; or as given",
    )


class TrainingConfig(Part):
    """The grid and the loop."""

    models: tuple[str, ...] = Field(
        default=("dynunet",), min_length=1, description="names of files in configs/models"
    )
    losses: tuple[str, ...] = Field(
        default=("dice_ce", "cbdice", "dice_ce_cldice", "cbdice_cldice"),
        min_length=1,
        description="names of files in configs/losses",
    )
    folds: int = Field(default=3, ge=2, description="cross-validation folds")
    seeds: tuple[int, ...] = Field(
        default=(42,), min_length=1, description="one whole grid for each seed"
    )
    splits: Path | None = Field(default=None, description="JSON file of folds made elsewhere")
    test_fraction: float = Field(
        default=0.0, ge=0, lt=0.9, description="share of volumes held out of all folds"
    )
    max_epochs: int = Field(default=100, ge=1)
    iterations_per_epoch: int | Auto = Field(
        default="auto", description="optimizer steps in an epoch; auto: each patch sample once"
    )
    samples_per_volume: int = Field(
        default=4, ge=1, description="patches drawn from each volume in an epoch"
    )
    foreground_ratio: float = Field(
        default=0.67, ge=0, le=1, description="share of patches centred on foreground"
    )
    augment: bool = Field(default=True, description="random flips, rotations, intensity changes")
    patch_size: Shape | Auto = Field(default="auto", description="(x, y, z); given: used as it is")
    batch_size: int | Auto = Field(default="auto", description="patches in a step")
    accumulation_steps: int = Field(default=1, ge=1, description="steps summed before an update")
    learning_rate: float = Field(default=1e-3, gt=0)
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    weight_decay: float = Field(default=1e-5, ge=0)
    scheduler: Literal["cosine", "poly", "constant"] = "cosine"
    warmup_epochs: int = Field(default=0, ge=0, description="linear rise of the learning rate")
    gradient_clip_val: float = Field(default=1.0, ge=0, description="norm; 0 means no clipping")
    gradient_checkpointing: bool = Field(
        default=False, description="recompute activations: less memory, more time"
    )
    ema_decay: float = Field(
        default=0.0, ge=0, lt=1, description="average of the weights; 0 means none"
    )
    early_stopping_patience: int = Field(
        default=0, ge=0, description="epochs without a better val_loss; 0 means never"
    )
    mixed_precision: Literal["auto", "none", "bf16", "fp16"] = "auto"
    sliding_window_overlap: float = Field(default=0.25, ge=0, lt=1)
    cache_rate: float | Auto = uncounted("auto", "share of volumes kept in memory, 0 to 1")
    num_workers: int | Auto = uncounted("auto", "loader processes or threads")
    threads: int | Auto = Field(default="auto", description="threads of torch on the CPU")
    device: Literal["auto", "cpu", "cuda"] = uncounted("auto", "where cells train")
    figure_interval: int = uncounted(10, "epochs between prediction images", ge=1)
    retrain: Literal["if_changed", "always", "never"] = uncounted(
        "if_changed", "train cells whose key is already FINISHED: only if changed, always, never"
    )


class EvaluationConfig(Part):
    """How predictions are judged, in training and in analysis alike."""

    interval_epochs: int = Field(default=5, ge=1, description="epochs between topology metrics")
    masd_cap: float = Field(default=50.0, gt=0, description="m of the compound metric, voxels")
    nsd_tolerance: float = Field(default=1.0, gt=0, description="voxels")
    bootstrap_n: int = Field(default=1000, ge=100, description="resamples for intervals")
    ci_level: float = Field(default=0.95, gt=0.5, lt=1)


class AnalysisConfig(Part):
    """What flow 3 does beyond judging each family."""

    ensembles: tuple[Literal["mean"], ...] = Field(
        default=("mean",), description="ways to combine families"
    )
    figures: int = Field(default=6, ge=1, description="volumes shown in the report, worst first")


class DeploymentConfig(Part):
    """What a champion must pass before it serves."""

    target: Literal["local"] = Field(default="local", description="where the service runs")
    parity_volumes: int = Field(default=3, ge=3, description="whole volumes compared")
    max_logit_difference: float = Field(default=1e-3, gt=0)
    min_mask_agreement: float = Field(default=0.9999, gt=0, le=1)
    start_timeout_s: int = uncounted(180, "seconds until the service must answer", ge=5)


class TrackingConfig(Part):
    """Where runs are kept."""

    uri: str | None = uncounted(None, "MLflow store; none: SQLite in outputs")
    artifact_root: str | None = uncounted(None, "artifacts of new experiments; none: in outputs")
    log_system_metrics: bool = uncounted(True, "CPU, memory, disk, network, GPU of each run")
    system_metrics_interval_s: float = uncounted(10.0, "seconds between samples", gt=0)


Stage = Literal["profile", "train", "analyse", "deploy"]


class ExperimentConfig(Part):
    """All settings of an experiment; this class holds every default."""

    name: str | None = uncounted(None, "MLflow experiment; none: the dataset's name")
    flows: tuple[Stage, ...] = uncounted(
        ("profile", "train", "analyse", "deploy"), "stages that `experiment` runs, in order"
    )
    data: DataConfig = DataConfig()
    compute: ComputeConfig = ComputeConfig()
    model: dict[str, Any] = Field(
        default={}, description="fields of configs/models set for every model, filters: [8, 16]"
    )
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    analysis: AnalysisConfig = AnalysisConfig()
    deployment: DeploymentConfig = DeploymentConfig()
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _refuse_contradictions(self) -> Self:
        for clash in CONTRADICTIONS:
            if clash.holds(self):
                raise ValueError(f"{clash.problem} {clash.remedy}")
        return self

    @property
    def dataset(self) -> str:
        """The dataset's name: the folder's, or `demo`."""
        return self.data.root.resolve().name if self.data.root else DEMO

    @property
    def experiment(self) -> str:
        """The MLflow experiment of flow 2."""
        return self.name or self.dataset


DEMO = "demo"


class ModelConfig(Part):
    """A file in configs/models."""

    name: str
    family: str = Field(description="what `model_family` says in MLflow")
    builder: str = Field(description="import path module:callable, called with a resolved Network")
    filters: tuple[int, ...] = Field(min_length=1, description="channels of each level")
    kernel_size: int | tuple[Shape, ...] = Field(default=3, description="of each level")
    strides: tuple[Shape, ...] | Auto = Field(
        default="auto", description="of each level; auto: thin axes keep their slices"
    )
    norm: str = "instance"
    deep_supervision: bool = False
    dropout: float = Field(default=0.0, ge=0, lt=1)
    arguments: dict[str, Any] = Field(default={}, description="what only this builder knows")


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


# --- contradictions -----------------------------------------------------------------------


class Clash(NamedTuple):
    """Two settings that cannot both be meant."""

    keys: tuple[str, ...]
    problem: str
    remedy: str
    test: Any

    def holds(self, config: ExperimentConfig) -> bool:
        """Whether the configuration contains it."""
        return bool(self.test(config))


CONTRADICTIONS = (
    Clash(
        ("training.patch_size", "compute.patch_strategy"),
        "training.patch_size is given, so the strategy is fixed, but another "
        "compute.patch_strategy is asked for.",
        "Leave out one of training.patch_size and compute.patch_strategy.",
        lambda c: (
            c.training.patch_size != "auto"
            and "patch_strategy" in c.compute.model_fields_set
            and c.compute.patch_strategy != "fixed"
        ),
    ),
    Clash(
        ("compute.patch_strategy", "training.patch_size"),
        "compute.patch_strategy=fixed needs a patch.",
        "Set training.patch_size=[64,64,16], or leave out compute.patch_strategy.",
        lambda c: c.compute.patch_strategy == "fixed" and c.training.patch_size == "auto",
    ),
    Clash(
        ("data.image", "data.label"),
        "data.image and data.label belong together, and only one of them is given.",
        "Give both, for example data.image=*_img.nii.gz data.label={case}_seg.nii.gz.",
        lambda c: (c.data.image is None) != (c.data.label is None),
    ),
    Clash(
        ("data.image", "data.root"),
        "data.image is a pattern for files of your own, but data.root does not say where they are.",
        "Add data.root=/path/to/folder, or leave out data.image and data.label for demo data.",
        lambda c: c.data.image is not None and c.data.root is None,
    ),
    Clash(
        ("data.resampling.enabled", "data.resampling.method"),
        "data.resampling.enabled and data.resampling.method disagree.",
        "Set both data.resampling.enabled=true and data.resampling.method=spacing, or neither.",
        lambda c: c.data.resampling.enabled != (c.data.resampling.method is not None),
    ),
    Clash(
        ("data.resampling.method", "data.resampling.target_spacing"),
        "data.resampling.method=spacing needs data.resampling.target_spacing.",
        "Add for example 'data.resampling.target_spacing=[1,1,1]'.",
        lambda c: (
            c.data.resampling.method == "spacing" and c.data.resampling.target_spacing is None
        ),
    ),
    Clash(
        ("training.splits", "training.folds"),
        "training.splits brings its own folds, but training.folds is given too.",
        "Leave out one of training.splits and training.folds.",
        lambda c: c.training.splits is not None and "folds" in c.training.model_fields_set,
    ),
    Clash(
        ("training.splits", "training.test_fraction"),
        "training.splits brings its own test set, but training.test_fraction is given too.",
        "Leave out one of training.splits and training.test_fraction.",
        lambda c: c.training.splits is not None and c.training.test_fraction > 0,
    ),
    Clash(
        ("training.warmup_epochs", "training.max_epochs"),
        "training.warmup_epochs must be smaller than training.max_epochs.",
        "Lower training.warmup_epochs or raise training.max_epochs.",
        lambda c: c.training.warmup_epochs >= c.training.max_epochs,
    ),
    Clash(
        ("compute.profile", "training.device"),
        "compute.profile=cpu and training.device=cuda contradict each other.",
        "Leave out one of compute.profile and training.device.",
        lambda c: c.compute.profile == "cpu" and c.training.device == "cuda",
    ),
    Clash(
        ("training.device", "training.mixed_precision"),
        "training.mixed_precision=fp16 needs a GPU, but training.device=cpu is given.",
        "Use training.mixed_precision=bf16 or none on a CPU.",
        lambda c: c.training.device == "cpu" and c.training.mixed_precision == "fp16",
    ),
)


# --- environment --------------------------------------------------------------------------


class Environment(Part):
    """The environment variables that mean something here, read once."""

    home: Path = Path("outputs")
    mlflow_tracking_uri: str | None = None
    prefect_api_url: str | None = None
    prefect_home: Path | None = None
    prefect_disabled: bool = False
    ci: bool = False
    kubernetes: bool = False
    cuda_visible_devices: str | None = None
    launched_by: str = "cli"


def environment(variables: Mapping[str, str] | None = None) -> Environment:
    """Read the environment; empty values count as absent."""
    given = {
        key: value
        for key, value in (os.environ if variables is None else variables).items()
        if value
    }
    return Environment(
        home=Path(given.get("MINIVESS_HOME", "outputs")),
        mlflow_tracking_uri=given.get("MLFLOW_TRACKING_URI"),
        prefect_api_url=given.get("PREFECT_API_URL"),
        prefect_home=Path(given["PREFECT_HOME"]) if "PREFECT_HOME" in given else None,
        prefect_disabled=given.get("PREFECT_DISABLED", "").lower() in {"1", "true", "yes"},
        ci="CI" in given,
        kubernetes="KUBERNETES_SERVICE_HOST" in given,
        # Empty means "no GPU", so it counts although it is empty.
        cuda_visible_devices=(variables or os.environ).get("CUDA_VISIBLE_DEVICES"),
        launched_by=given.get("MINIVESS_LAUNCHED_BY", "cli"),
    )


QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DVC_NO_ANALYTICS": "1",
    "BENTOML_DO_NOT_TRACK": "True",
    "SCARF_NO_ANALYTICS": "true",
}


def silence_telemetry() -> None:
    """Tell every library not to send usage data; must run before they are imported."""
    os.environ.update(QUIET)


def child_environment(**changes: str) -> dict[str, str]:
    """The environment for a process that we start: ours, silent, with changes."""
    return {**os.environ, **QUIET, **changes}


def set_environment(**changes: str) -> None:
    """Set standard variables that a library reads only from its environment."""
    os.environ.update(changes)


def default_environment(**values: str) -> None:
    """Set standard variables of a library unless the user has set them."""
    for name, value in values.items():
        os.environ.setdefault(name, value)


@contextmanager
def changed_environment(**changes: str) -> Iterator[None]:
    """Set variables that a library reads only from its environment; put the old ones back."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def local_without_proxy() -> dict[str, str]:
    """NO_PROXY with this machine in it: calls to our own servers stay here."""
    given = os.environ.get("NO_PROXY") or os.environ.get("no_proxy") or ""
    hosts = [host.strip() for host in given.split(",") if host.strip()]
    joined = ",".join(dict.fromkeys([*hosts, "127.0.0.1", "localhost"]))
    return {"NO_PROXY": joined, "no_proxy": joined}


# --- reading ------------------------------------------------------------------------------


def load(
    files: Sequence[Path] = (),
    words: Sequence[str] = (),
    env: Environment | None = None,
    folder: Path | None = None,
) -> ExperimentConfig:
    """Merge YAML files, standard variables and `key=value` words, then validate.

    Without a `data.root`, configs/experiments/demo.yaml lies under everything.
    Relative `data.root` words are resolved against `folder` (default: where the user stands).

    Raises:
        UsageError: unknown key (the nearest one is named), refused value or contradiction.
    """
    from omegaconf import OmegaConf

    env = env or environment()
    merged = merge(files, words, env)
    if OmegaConf.select(merged, "data.root") is None:
        merged = merge([find("experiments", DEMO), *files], words, env)
    values = OmegaConf.to_container(merged, resolve=False)
    config: ExperimentConfig = validated(ExperimentConfig, values)
    if config.data.root is not None:
        root = ((folder or Path.cwd()) / config.data.root.expanduser()).resolve()
        data = config.data.model_copy(update={"root": root})
        config = config.model_copy(update={"data": data})
    return config


def words(config: ExperimentConfig) -> list[str]:
    """The `key=value` words that `load` makes this configuration of, `tracking` left out.

    Where runs are kept is the reader's affair, and an address may hold a password.
    """
    plain = load(env=Environment()) if config.data.root is None else ExperimentConfig()
    mine, theirs = config.model_dump(mode="json"), plain.model_dump(mode="json")
    found = []
    for key in leaves():
        value, other = mine, theirs
        for name in key.split("."):
            value, other = value[name], other[name]
        if value != other and not key.startswith("tracking."):
            text = str(value) if isinstance(value, str) else json.dumps(value)
            found.append(f"{key}={text}")
    return found


def merge(files: Sequence[Path], words: Sequence[str], env: Environment) -> Any:
    """The differences of files, then environment, then words, as one OmegaConf tree."""
    from omegaconf import OmegaConf

    tree: Any = OmegaConf.create({})
    for file in files:
        for key in dotted(read_yaml(file)):
            refuse_unknown(key, f"{file.name}")
        tree = OmegaConf.merge(tree, OmegaConf.create(read_yaml(file)))
    if env.mlflow_tracking_uri:
        OmegaConf.update(tree, "tracking.uri", env.mlflow_tracking_uri)
    for word in words:
        key, value = parse(word)
        OmegaConf.update(tree, key, value, merge=False, force_add=True)
    return tree


def parse(word: str) -> tuple[str, Any]:
    """Split `key=value`; a text field takes its value verbatim, others are read as YAML."""
    key, equals, text = word.partition("=")
    if not equals:
        raise UsageError(
            f"{word!r} is neither a YAML file nor key=value.",
            remedy="write settings as key=value, for example training.max_epochs=5",
        )
    refuse_unknown(key, f"the word {word!r}")
    if is_text(key):
        return key, None if text == "null" else text
    try:
        return key, yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(
            f"The value of {key}, {text!r}, cannot be read: {error}",
            remedy=f"quote the whole word, for example '{key}={example(key)}'",
        ) from error


def read_yaml(file: Path) -> dict[str, Any]:
    """A YAML file as a mapping."""
    try:
        value = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(
            f"There is no file {file}.",
            remedy=f"use one of {', '.join(str(p) for p in known_experiments())}",
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{file} is not YAML: {error}", remedy="mend the file at the line named above"
        ) from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UsageError(
            f"{file} holds {type(value).__name__}, not settings.",
            remedy="write settings as `training:` with indented `max_epochs: 5` below it",
        )
    return value


def validated(kind: type[Any], values: Any) -> Any:
    """Build a part; pydantic's complaint becomes one paragraph."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(step) for step in first["loc"] if not str(step).startswith("function"))
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            near = difflib.get_close_matches(key, kind.model_fields, n=1, cutoff=0)
            raise UsageError(
                f"There is no setting {key!r} in {kind.__name__}.",
                remedy=f"did you mean {near[0]}?",
            ) from None
        if not key:
            raise UsageError(message, remedy="change one of the two settings named") from None
        raise UsageError(
            f"{key}={first['input']!r} is refused: {message}.",
            remedy=f"give a value such as {key}={example(key)}",
        ) from None


def refuse_unknown(key: str, where: str) -> None:
    """Raise for a key that nothing reads, naming the nearest known one."""
    if known(key):
        return
    near = difflib.get_close_matches(key, list(leaves()), n=1, cutoff=0.0)
    raise UsageError(
        f"{where} sets {key!r}, which is no setting.", remedy=f"did you mean {near[0]}?"
    )


def known(key: str) -> bool:
    """Whether a dotted key names a part or a field; keys inside mappings are free."""
    names = key.split(".")
    kind: Any = ExperimentConfig
    for position, name in enumerate(names):
        if name not in kind.model_fields:
            return False
        annotation = kind.model_fields[name].annotation
        if get_origin(annotation) is dict:
            return len(names) - position <= 2
        if not (isinstance(annotation, type) and issubclass(annotation, Part)):
            return position == len(names) - 1
        kind = annotation
    return True


def leaves(kind: type[BaseModel] = ExperimentConfig, prefix: str = "") -> Iterator[str]:
    """Every dotted key that a user may type."""
    for name, field in kind.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Part):
            yield from leaves(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def field_of(key: str) -> FieldInfo | None:
    """The field behind a dotted key, or None inside a mapping."""
    kind: Any = ExperimentConfig
    for name in key.split("."):
        field: FieldInfo | None = getattr(kind, "model_fields", {}).get(name)
        if field is None:
            return None
        kind = field.annotation
    return field


def is_text(key: str) -> bool:
    """Whether a field takes text, so that its word is no YAML."""
    field = field_of(key)
    return field is not None and any(
        kind in (str, Path) or (get_origin(kind) is Literal and kind is not Auto)
        for kind in _alternatives(field.annotation)
    )


def example(key: str) -> Any:
    """The default of a key, for messages."""
    field = field_of(key)
    if field is None or field.default is None:
        return "..."
    value = field.get_default()
    return f"[{','.join(map(str, value))}]" if isinstance(value, tuple) else value


def dotted(tree: Mapping[Any, Any], prefix: str = "") -> Iterator[str]:
    """The dotted keys that a mapping sets; mapping-valued fields count as one."""
    for name, value in tree.items():
        key = f"{prefix}{name}"
        field = field_of(key)
        inside = field is None or get_origin(field.annotation) is not dict
        if isinstance(value, Mapping) and inside:
            yield from dotted(value, f"{key}.") if value else iter((key,))
        else:
            yield key


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    origin = get_origin(annotation)
    return get_args(annotation) if origin in (Union, types.UnionType) else (annotation,)


def _counts(field: FieldInfo) -> bool:
    extra = field.json_schema_extra
    return not (isinstance(extra, dict) and extra.get("counts") is False)


# --- files in configs/ --------------------------------------------------------------------


def folders() -> tuple[Path, ...]:
    """Where configs/ may lie: here, in the clone, in the installed package."""
    package = Path(__file__).resolve().parent
    places = (Path.cwd() / "configs", package.parents[1] / "configs", package / "_configs")
    return tuple(place for place in places if place.is_dir())


def find(kind: str, name: str) -> Path:
    """The YAML file of a model, loss, tier or experiment.

    Raises:
        UsageError: no such file; the nearest name is given.
    """
    for folder in folders():
        if (folder / kind / f"{name}.yaml").is_file():
            return folder / kind / f"{name}.yaml"
    names = sorted({file.stem for folder in folders() for file in (folder / kind).glob("*.yaml")})
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.0)
    raise UsageError(
        f"There is no configs/{kind}/{name}.yaml.",
        remedy=f"did you mean {near[0] if near else '?'}? Known: {', '.join(names)}",
    )


def known_experiments() -> list[Path]:
    """The experiment files, as a user would type them."""
    return sorted(
        {
            Path("configs/experiments") / file.name
            for folder in folders()
            for file in (folder / "experiments").glob("*.yaml")
        }
    )


def model(name: str, changes: Mapping[str, Any] | None = None) -> ModelConfig:
    """Read configs/models/<name>.yaml, with the experiment's `model` changes over it."""
    values = {"name": name, **read_yaml(find("models", name)), **(changes or {})}
    built: ModelConfig = validated(ModelConfig, values)
    return built


def loss(name: str) -> LossConfig:
    """Read configs/losses/<name>.yaml."""
    built: LossConfig = validated(LossConfig, {"name": name, **read_yaml(find("losses", name))})
    return built


def tier(name: str) -> TierConfig:
    """Read configs/tiers/<name>.yaml."""
    built: TierConfig = validated(TierConfig, {"name": name, **read_yaml(find("tiers", name))})
    return built


def imported(path: str) -> Any:
    """The object behind an import path module:name, as YAML files hold them.

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
