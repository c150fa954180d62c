"""Params, tags, metrics and artifacts that each kind of run must hold.

Spec 1.2 to 1.7 in one place; fields of the configuration and of networks are not listed again.
A name with `*` stands for any text.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from fnmatch import fnmatchcase

from minivess import names
from minivess.config import EvaluationConfig, TrainingConfig
from minivess.contracts import Network, RunRecord
from minivess.runtime import liveness
from minivess.tracking.run.params import GRID

SYS = (
    "python_version", "os", "os_kernel", "hostname", "total_ram_gb", "cpu_model", "torch_version",
    "monai_version", "torchio_version", "torchmetrics_version", "cuda_version", "cudnn_version",
    "mlflow_version", "prefect_version", "numpy_version", "gpu_count", "gpu_model", "gpu_vram_mb",
    "gpu_driver_version", "git_commit", "git_commit_short", "git_branch", "git_dirty",
)  # fmt: skip
DATA = (
    "dataset_name", "dataset_path", "dataset_hash", "n_volumes", "total_size_gb", "shape_range",
    "spacing_range",
)  # fmt: skip
SPLIT = (
    "n_train_volumes", "n_val_volumes", "train_volume_ids", "val_volume_ids", "split_hash",
)  # fmt: skip
UNSHOWN = {"in_channels", "out_channels", "limits"}


@dataclass(frozen=True)
class Contract:
    """Names that a run must hold, of each sort."""

    params: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    artifacts: tuple[str, ...] = ()

    def __add__(self, other: Contract) -> Contract:
        """Return the union."""
        both = zip(astuple(self), astuple(other), strict=True)
        return Contract(*(mine + theirs for mine, theirs in both))


IDENTITY = Contract(
    tags=(
        names.UID, names.KEY, names.KIND, names.NOTE, names.GROUP, "launched_by",
        "started_at", "run_status", "git_commit", liveness.HOST, liveness.PID,
    ),
)  # fmt: skip
COMMON = Contract(
    params=(*(f"sys_{name}" for name in SYS), *(f"data_{name}" for name in DATA)),
    artifacts=(
        "config/resolved_config.yaml", "config/experiment_config.json",
        "environment/frozen_deps.txt", "environment/monai_config.txt",
        "environment/system_info.json", "environment/git.diff", names.INGREDIENTS_ARTIFACT,
        "logs/performance.log", "logs/warnings.log",
    ),
)  # fmt: skip
DOWNSTREAM = Contract(params=(names.UPSTREAM_PROFILE,), artifacts=(names.UPSTREAM_ARTIFACT,))
DESCRIBED = DOWNSTREAM + Contract(
    params=(
        *(field for field in TrainingConfig.model_fields if field not in GRID),
        *(f"eval_{field}" for field in EvaluationConfig.model_fields),
        *(f"arch_{field}" for field in Network.model_fields if field not in UNSHOWN),
        *(f"data_{name}" for name in SPLIT),
        "seed", "compute_profile", "model_family", "model_name", "in_channels", "out_channels",
        "loss_name", "loss_config", "loss_weights", "fold_ids",
    ),
    tags=(
        "loss_function", "loss_type", "num_folds", "model_family", "model_name", "compute_profile",
    ),
    artifacts=(
        names.PLAN_ARTIFACT, names.PROFILE_ARTIFACT, "logs/train.log", "splits/*fold_seed*.json",
        "splits/fold_details.json",
    ),
)  # fmt: skip
TRAINING = DESCRIBED + Contract(
    params=("training_time_seconds", "trainable_parameters"),
    metrics=("trainable_parameters",),
    artifacts=(names.PER_VOLUME_ARTIFACT,),
)
CELL = TRAINING + Contract(
    tags=("fold_id", names.PARENT),
    metrics=("train_loss", "learning_rate"),
    artifacts=(
        f"checkpoints/{names.LAST}", names.HISTORY_ARTIFACT, names.SPEC_ARTIFACT,
        names.RESULT_ARTIFACT, "model_summary.txt",
    ),
)  # fmt: skip
SCORED = Contract(
    tags=("best_val_loss",),
    metrics=("val_loss", "train_dice", "val_dice", "val_f1_foreground"),
    artifacts=("checkpoints/best_*.pth",),
)
KINDS = {
    names.PROFILE: Contract(
        metrics=("n_volumes",),
        artifacts=(
            names.PROFILE_ARTIFACT, names.DVC_ARTIFACT, names.GALLERY_ARTIFACT,
            "dataset/findings.json", "logs/profile.log",
        ),
    ),
    names.FAMILY: TRAINING + Contract(
        metrics=("eval_fold0_dice", "eval_dice"),
        artifacts=(names.TRAINING_ARTIFACT, f"{names.MODEL_ARTIFACT}/MLmodel"),
    ),
    names.CELL: CELL + SCORED,
    names.REFIT: DESCRIBED + Contract(
        params=(names.UPSTREAM_TRAINING, names.UPSTREAM_ANALYSIS),
        metrics=("trainable_parameters",),
        artifacts=(f"{names.MODEL_ARTIFACT}/MLmodel",),
    ),
    names.SEARCH: DOWNSTREAM + Contract(
        params=("search_sampler", "search_trials", "search_space"),
        tags=("best_trial",),
        artifacts=("search/trials.json",),
    ),
    names.TRIAL: DOWNSTREAM + Contract(tags=(names.PARENT,)),
    names.ANALYSIS: DOWNSTREAM + Contract(
        params=(
            names.UPSTREAM_TRAINING, names.UPSTREAM_EXPERIMENT, names.UPSTREAM_COUNT,
            *(f"eval_{field}" for field in EvaluationConfig.model_fields),
        ),
        tags=("champion_family", "champion_run_id", "champion_metric", "champion_value"),
        metrics=("champion_dice",),
        artifacts=(
            names.ANALYSIS_ARTIFACT, names.PER_VOLUME_ARTIFACT, names.FAMILIES_ARTIFACT,
            names.REPORT_ARTIFACT, "logs/analyse.log",
        ),
    ),
    names.ENSEMBLE: DOWNSTREAM + Contract(
        params=(names.UPSTREAM_TRAINING, names.UPSTREAM_EXPERIMENT, "ensemble_how"),
        tags=(names.PARENT,),
        metrics=("eval_dice", "trainable_parameters"),
        artifacts=(names.PER_VOLUME_ARTIFACT, f"{names.MODEL_ARTIFACT}/MLmodel"),
    ),
    names.DEPLOYMENT: DOWNSTREAM + Contract(
        params=(names.UPSTREAM_TRAINING, names.UPSTREAM_EXPERIMENT, names.UPSTREAM_ANALYSIS),
        metrics=("max_logit_difference", "mask_agreement", "smoke_seconds"),
        artifacts=(
            names.DEPLOYMENT_ARTIFACT, names.ONNX_ARTIFACT, "export/parity.json", "engines.json",
            "smoke.json", "model_card.md", names.LINEAGE_ARTIFACT, "logs/deploy.log",
        ),
    ),
}  # fmt: skip
TROUBLED = IDENTITY + Contract(tags=(names.ERROR_TYPE,))


def of(record: RunRecord) -> Contract:
    """Return what this run must hold; of a FAILED or KILLED run only its cause is required."""
    if record.status != "FINISHED":
        return TROUBLED
    kind = record.tags.get(names.KIND, "")
    # A cell trained on all volumes (a refit) has no validation scores.
    unscored = names.PARENT in record.tags and record.params.get("data_n_val_volumes") == "0"
    return IDENTITY + COMMON + (CELL if unscored else KINDS.get(kind, Contract()))


def missing(record: RunRecord, artifacts: set[str]) -> list[str]:
    """Return what a run lacks, as `param x`, `tag y`, `metric z`, `artifact w`."""
    wanted = of(record)
    held = {
        "param": (wanted.params, set(record.params)),
        "tag": (wanted.tags, set(record.tags)),
        "metric": (wanted.metrics, set(record.metrics)),
        "artifact": (wanted.artifacts, artifacts),
    }
    return [
        f"{sort} {name}"
        for sort, (expected, found) in held.items()
        for name in expected
        if name not in found and not any(fnmatchcase(one, name) for one in found)
    ]
