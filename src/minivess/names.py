"""Names that several places must agree on, each written once. Spec section 1."""

from __future__ import annotations

PROJECT = "minivess"
GROUPS_FILE = "groups.json"  # beside the volumes: case -> group

# MLflow experiments; flow 2 uses the experiment's own name.
PROFILE_EXPERIMENT = "data-profile"
EVALUATION_EXPERIMENT = "minivess_evaluation"
DEPLOYMENT_EXPERIMENT = "minivess_deployment"

# Kinds of run, in the tag KIND.
PROFILE, FAMILY, CELL, ANALYSIS, DEPLOYMENT = "profile", "family", "cell", "analysis", "deployment"
REFIT, SEARCH, TRIAL, ENSEMBLE = "refit", "search", "trial", "ensemble"
EXPERIMENTS = {
    PROFILE: PROFILE_EXPERIMENT,
    ANALYSIS: EVALUATION_EXPERIMENT,
    ENSEMBLE: EVALUATION_EXPERIMENT,
    DEPLOYMENT: DEPLOYMENT_EXPERIMENT,
}
"""Kinds whose runs have an MLflow experiment of their own."""
OWN_EXPERIMENTS = tuple(dict.fromkeys(EXPERIMENTS.values()))
TRAINING_KINDS = (FAMILY, REFIT, SEARCH)

# Tags.
UID = "minivess.uid"
KEY = "content_key"
KIND = "minivess.kind"
NOTE = "mlflow.note.content"
PARENT = "mlflow.parentRunId"
PUBLISHED = "minivess.published_at"
GROUP = "experiment_group"
ERROR_TYPE = "error_type"
RESTART_OF = "restart_of"
NEXT_PLAN = "next_plan"
EXTENSION = "extension"
HEARTBEAT = "heartbeat"
STALLED = "stalled"

# Values of ERROR_TYPE for a process that was killed.
PROCESS_DIED, OUT_OF_MEMORY_KILL = "ProcessDied", "OutOfMemoryKill"

# Params that carry lineage.
DATASET_NAME = "data_dataset_name"
DATASET_HASH = "data_dataset_hash"
UPSTREAM_PROFILE = "upstream_data_profile_run_id"
UPSTREAM_TRAINING = "upstream_training_run_id"
UPSTREAM_INIT = "upstream_init_run_id"
UPSTREAM_EXPERIMENT = "upstream_training_experiment"
UPSTREAM_ANALYSIS = "upstream_analysis_run_id"
UPSTREAM_COUNT = "upstream_training_run_count"

# Metrics. Validation metrics carry the prefix val_.
PRIMARY = "compound_masd_cldice"
METRICS = ("dice", "cldice", "masd", "hd95", "nsd", "f1", PRIMARY)
DISTANCES = ("masd", "hd95")
"""There is none to an empty mask; all other metrics of METRICS lie between 0 and 1."""
BETTI = ("betti0_error", "betti1_error", "junction_error")
COUNTS = (*BETTI, "false_breaks", "false_merges")
"""Errors of topology by their number, judged out of fold; BETTI are defined on every volume."""
LOWER_IS_BETTER = (*DISTANCES, *COUNTS)


def stem(metric: str) -> str:
    """`dice_class2` -> `dice`."""
    return metric.partition("_class")[0]


# Files of a cell, in its folder and under checkpoints/ of its run.
BEST_LOSS = "best_val_loss.pth"
BEST_PRIMARY = f"best_val_{PRIMARY}.pth"
LAST = "last.pth"
CHECKPOINTS = (BEST_LOSS, BEST_PRIMARY, LAST)
FINAL = "final.pth"
"""Weights after the last epoch, averaged where there is an average; judged unless `best` is."""
INITIAL = "initial.safetensors"
"""Weights that a cell begins with, where `training.init` gives them."""
CELL_RESULT = "result.json"
CELL_SPEC = "spec.json"
HISTORY = "metric_history.json"

# Artifacts that another flow reads back.
PROFILE_ARTIFACT = "dataset/dataset_profile.json"
DVC_ARTIFACT = "dataset/curated.dvc"
PLAN_ARTIFACT = "config/compute_plan.json"
PLAN_PAGE_ARTIFACT = "config/compute_plan.md"
NEXT_PLAN_ARTIFACT = "config/next_compute_plan.json"
INGREDIENTS_ARTIFACT = "lineage/key.json"
FILES_ARTIFACT = "lineage/files.json"
UPSTREAM_ARTIFACT = "lineage/upstream.json"
LINEAGE_ARTIFACT = "lineage/lineage.html"
SPEC_ARTIFACT = f"evaluation/{CELL_SPEC}"
RESULT_ARTIFACT = f"evaluation/{CELL_RESULT}"
TRAINING_ARTIFACT = "evaluation/training_result.json"
ANALYSIS_ARTIFACT = "evaluation/analysis_result.json"
DEPLOYMENT_ARTIFACT = "deployment_result.json"
PER_VOLUME_ARTIFACT = "evaluation/per_volume_metrics.json"
TEST_ARTIFACT = "evaluation/test_families.json"
TEST_VOLUMES_ARTIFACT = "evaluation/test_volumes.json"
FAMILIES_ARTIFACT = "evaluation/families.json"
COMPARISONS_ARTIFACT = "evaluation/comparisons.json"
UNCERTAINTY_ARTIFACT = "evaluation/uncertainty.json"
FAULTS_ARTIFACT = "evaluation/faults.json"
MEASURES_ARTIFACT = "evaluation/measures.json"
UNCERTAINTY_MAPS = "uncertainty"
HISTORY_ARTIFACT = f"history/{HISTORY}"
REPORT_ARTIFACT = "report/report.html"
TRADEOFFS_ARTIFACT = "report/tradeoffs.html"
METHODS_ARTIFACT = "report/methods.md"
GALLERY_ARTIFACT = "dataset/gallery.html"
EXPORT_ARTIFACT = "export"
ONNX_ARTIFACT = f"{EXPORT_ARTIFACT}/model.onnx"
MODEL_ARTIFACT = "model"

# Prefect Variables (or keys of pointers.json).
LATEST = {
    PROFILE: "latest_data_profile",
    FAMILY: "latest_training",
    ANALYSIS: "latest_analysis",
    DEPLOYMENT: "latest_deployment",
}

# Aliases of registered models.
CHAMPION_ALIAS = "champion"
REFIT_ALIAS = "refit"
PRODUCTION_ALIAS = "production"
PRODUCTION_MOVE = "minivess.production."
"""Tag of a registered model for each move of `production`; a number of four digits follows."""

# Events.
DATA_CHANGED = "minivess.data.changed"
DATA_PROFILED = "minivess.data.profiled"
DRIFTED = "minivess.data.drifted"
