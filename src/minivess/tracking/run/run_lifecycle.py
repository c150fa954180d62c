"""Begin and end of a run: tags, descriptions, status."""

from __future__ import annotations

import getpass
import json
import logging
import time
import traceback
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from minivess import keys, names
from minivess.config import ExperimentConfig
from minivess.errors import StoreError
from minivess.runtime import liveness, logs, oom
from minivess.tracking.journal.journal import Journal, Operation
from minivess.tracking.run import environment, system
from minivess.tracking.run.encoding import plain_json
from minivess.tracking.run.recorder import RunRecorder
from minivess.tracking.run.run import Run
from minivess.tracking.store.store import Store

MESSAGE_LIMIT = 500
INTERRUPTED = (129, 130, 143)
# Exceptions of Prefect, asyncio and Optuna that mean "stop", though they derive from Exception.
CANCELLATIONS = ("CancelledRun", "CancelledError", "TrialPruned")
TRAINING = "Training: a parent run per model, loss and seed, a child run per fold."
EXPERIMENT_NOTES = {
    names.PROFILE: "Datasets: checked, measured, versioned.",
    names.FAMILY: TRAINING,
    names.CELL: TRAINING,
    **dict.fromkeys((names.REFIT, names.SEARCH, names.TRIAL), TRAINING),
    **dict.fromkeys(
        (names.ANALYSIS, names.ENSEMBLE),
        "Evaluation: families and ensembles judged out of fold, and the champion.",
    ),
    names.DEPLOYMENT: "Deployment: export, parity, service and smoke test of champions.",
}
log = logging.getLogger(__name__)


@contextmanager
def mlflow_run(
    store: Store,
    *,
    experiment: str,
    name: str,
    kind: str,
    key: str,
    note: str,
    dataset: str,
    config: ExperimentConfig,
    ingredients: keys.Ingredients,
    launched_by: str = "cli",
    parent: Run | None = None,
    tags: Mapping[str, str] | None = None,
) -> Iterator[Run]:
    """Record a run while the block works, and end it as the block ends.

    FINISHED on return and on sys.exit(0); FAILED on an exception or another exit code; KILLED
    on Ctrl-C, termination signals and cancellation. A status set by another program is kept.
    """
    uid = uuid.uuid4().hex
    own = {
        names.UID: uid,
        names.KEY: key,
        names.KIND: kind,
        names.NOTE: note,
        names.GROUP: config.experiment,
        "launched_by": launched_by,
        **({names.PARENT: parent.run_id} if parent else {}),
        **(tags or {}),
    }
    with logs.opened(store.home.logs / uid, kind) as log_folder, ExitStack() as stack:
        journal = Journal(store.home.journal, uid)
        recorder = RunRecorder(store, journal, opening_operation(experiment, dataset, name, own))
        run = recorder.run
        try:
            log.info("%s run %s (%s) starts.", kind, name, run.run_id)
            if config.tracking.log_system_metrics:
                interval = config.tracking.system_metrics_interval_s
                stack.callback(system.monitor(run, interval))
            run.params(environment.collect().params)
            for path, text in descriptions(config, ingredients).items():
                run.text(text, path)
            yield run
            stack.close()
        except BaseException as error:
            stack.close()
            end_in_trouble(recorder, error, log_folder)
            raise
        status, trouble = after_return(run)
        recorder.store_logs(log_folder, status)
        recorder.close(status, trouble)
        if parent is not None and run.row:
            recorder.add_fold(parent.name)


def opening_operation(
    experiment: str, dataset: str, name: str, tags: Mapping[str, str]
) -> Operation:
    """Return the journal's first operation: what MLflow needs, tagged with this process."""
    started = time.time_ns() // 1_000_000
    commit = environment.collect().params["sys_git_commit"]
    everything = {
        **liveness.identity(),
        **oom.tags(),
        "mlflow.user": _user(),
        "mlflow.source.name": names.PROJECT,
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": commit,
        "git_commit": commit,
        "started_at": datetime.fromtimestamp(started / 1000, UTC).isoformat(timespec="seconds"),
        "run_status": "RUNNING",
        **tags,
    }
    return {
        "op": "open",
        "experiment": experiment,
        "dataset": dataset,
        "note": EXPERIMENT_NOTES[tags[names.KIND]],
        "name": name,
        "t": started,
        "tags": everything,
    }


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def descriptions(config: ExperimentConfig, ingredients: keys.Ingredients) -> dict[str, str]:
    """Return the text files that every run stores: configuration, environment, key inputs."""
    surroundings = environment.collect()
    asked = config.model_dump(mode="json", exclude_unset=True)
    return {
        "config/resolved_config.yaml": yaml.safe_dump(config.model_dump(mode="json")),
        "config/experiment_config.json": _indented(asked),
        "environment/system_info.json": _indented(plain_json(surroundings.info)),
        "environment/monai_config.txt": environment.monai(),
        names.INGREDIENTS_ARTIFACT: _indented(ingredients),
        **{f"environment/{name}": content for name, content in surroundings.files.items()},
    }


def _indented(value: Any) -> str:
    return json.dumps(value, indent=2, sort_keys=True) + "\n"


# --- ends ---------------------------------------------------------------------------------


def status_of_error(error: BaseException) -> str:
    """Return the status that a block's exception means."""
    if isinstance(error, SystemExit):
        if error.code in (None, 0):
            return "FINISHED"
        return "KILLED" if error.code in INTERRUPTED else "FAILED"
    stopped = not isinstance(error, Exception) or type(error).__name__ in CANCELLATIONS
    return "KILLED" if stopped else "FAILED"


def after_return(run: Run) -> tuple[str, dict[str, str]]:
    """Return status and tags of a run whose block returned."""
    if run.failure is None:
        return "FINISHED", {}
    return "FAILED", {"error_type": run.failure[0], "error_message": run.failure[1]}


def end_in_trouble(recorder: RunRecorder, error: BaseException, log_folder: Path) -> None:
    """End a run whose block raised; an error of the disk must not hide that one."""
    run, status = recorder.run, status_of_error(error)
    tags = {}
    if status != "FINISHED":
        log.error("%s run %s ends %s: %s", run.kind, run.name, status, type(error).__name__)
        tags = {"error_type": type(error).__name__, "error_message": str(error)[:MESSAGE_LIMIT]}
        run.text("".join(traceback.format_exception(error)), "traceback.txt")
    recorder.store_logs(log_folder, status)
    try:
        recorder.close(status, tags)
    except StoreError as trouble:
        log.warning("Run %s could not be closed properly: %s", run.run_id, trouble.problem)
