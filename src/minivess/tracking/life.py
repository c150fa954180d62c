"""How a run begins and how it ends: its tags, its descriptions, its status."""

from __future__ import annotations

import getpass
import json
import logging
import re
import tempfile
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from minivess import keys, names
from minivess.config import ExperimentConfig
from minivess.contracts import RunRecord
from minivess.errors import StoreError
from minivess.tracking import environment, logs, oom, process, system
from minivess.tracking.connection import door
from minivess.tracking.run import Run
from minivess.tracking.store import Store
from minivess.tracking.values import plain

MESSAGE_LIMIT = 500
INTERRUPTED = (130, 143)
# Exceptions by which Prefect and asyncio say "stop", though they derive from Exception.
CANCELLATIONS = ("CancelledRun", "CancelledError")
TRAINING = "Training: a parent run per model, loss and seed, a child run per fold."
EXPERIMENT_NOTES = {
    names.PROFILE: "Datasets: checked, measured, versioned.",
    names.FAMILY: TRAINING,
    names.CELL: TRAINING,
    names.REFIT: TRAINING,
    names.ANALYSIS: "Evaluation: families and ensembles judged out of fold, and the champion.",
    names.DEPLOYMENT: "Deployment: export, parity, service and smoke test of champions.",
}
log = logging.getLogger(__name__)
performance = logging.getLogger(logs.PERFORMANCE_LOGGER)


@contextmanager
def recorded(
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
    """Keep a run while the block works, and end it as the block ends.

    FINISHED on return and on sys.exit(0); FAILED on an exception or another exit code; KILLED
    on Ctrl-C, termination signals and cancellation. A status that somebody else has set stays.
    """
    uid = uuid.uuid4().hex
    own = {
        names.UID: uid,
        names.KEY: key,
        names.KIND: kind,
        names.NOTE: note,
        "experiment_group": config.experiment,
        "launched_by": launched_by,
        **({names.PARENT: parent.run_id} if parent else {}),
        **(tags or {}),
    }
    with logs.opened(store.home.logs / uid, kind) as log_folder, ExitStack() as stack:
        run = Run(
            store,
            begin(store, experiment, dataset, name, own),
            uid=uid,
            name=name,
            kind=kind,
        )
        try:
            log.info("%s run %s (%s) starts.", kind, name, run.run_id)
            if config.tracking.log_system_metrics:
                interval = config.tracking.system_metrics_interval_s
                stack.callback(system.monitor(run, interval))
            run.params(environment.collect().params)
            with descriptions(config, ingredients) as folder:
                run.folder(folder)
            yield run
            stack.close()
            store_logs(run, log_folder, after_return(run)[0])
        except BaseException as error:
            stack.close()
            end_in_trouble(run, error, log_folder)
            raise
        end(run, *after_return(run))


def begin(store: Store, experiment: str, dataset: str, name: str, tags: Mapping[str, str]) -> str:
    """Open a run in MLflow, tagged with the process that works on it; returns its id."""
    note = EXPERIMENT_NOTES[tags[names.KIND]]
    experiment_id = store.experiment_id(experiment, dataset=dataset, note=note)
    started = time.time_ns() // 1_000_000
    commit = environment.collect().params["sys_git_commit"]
    everything = {
        **process.identity(),
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
    with door(f"open the run {name!r}"):
        made = store.client.create_run(experiment_id, started, everything, run_name=name)
    return str(made.info.run_id)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


@contextmanager
def descriptions(config: ExperimentConfig, ingredients: keys.Ingredients) -> Iterator[Path]:
    """A folder with what every run stores unasked: configuration, environment, ingredients."""
    surroundings = environment.collect()
    asked = config.model_dump(mode="json", exclude_unset=True)
    contents = {
        "config/resolved_config.yaml": yaml.safe_dump(config.model_dump(mode="json")),
        "config/experiment_config.json": _indented(asked),
        "environment/system_info.json": _indented(plain(surroundings.info)),
        names.INGREDIENTS_ARTIFACT: _indented(ingredients),
        **{f"environment/{name}": content for name, content in surroundings.files.items()},
    }
    with tempfile.TemporaryDirectory(prefix="minivess-") as temporary:
        for path, content in contents.items():
            file = Path(temporary) / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content, encoding="utf-8")
        yield Path(temporary)


def _indented(value: Any) -> str:
    return json.dumps(value, indent=2, sort_keys=True) + "\n"


# --- ends ---------------------------------------------------------------------------------


def outcome(error: BaseException) -> str:
    """The status that a block's exception stands for."""
    if isinstance(error, SystemExit):
        if error.code in (None, 0):
            return "FINISHED"
        return "KILLED" if error.code in INTERRUPTED else "FAILED"
    stopped = not isinstance(error, Exception) or type(error).__name__ in CANCELLATIONS
    return "KILLED" if stopped else "FAILED"


def after_return(run: Run) -> tuple[str, dict[str, str]]:
    """Status and tags of a run whose block returned."""
    if run.failure is None:
        return "FINISHED", {}
    return "FAILED", {"error_type": run.failure[0], "error_message": run.failure[1]}


def end_in_trouble(run: Run, error: BaseException, log_folder: Path) -> None:
    """End a run whose block raised; trouble with the store must not hide that error.

    Each step is tried though another failed: a full disk takes no artifact, but a status.
    """
    status = outcome(error)
    if status == "FINISHED":
        tags = {}
    else:
        log.error("%s run %s ends %s: %s", run.kind, run.name, status, type(error).__name__)
        tags = {"error_type": type(error).__name__, "error_message": str(error)[:MESSAGE_LIMIT]}
        story = "".join(traceback.format_exception(error))
        _try(run, lambda: run.text(story, "traceback.txt"))
    _try(run, lambda: store_logs(run, log_folder, status))
    _try(run, lambda: end(run, status, tags))


def _try(run: Run, step: Callable[[], None]) -> None:
    try:
        step()
    except StoreError as trouble:
        log.warning("Run %s is not closed as it should be: %s", run.run_id, trouble.problem)


def store_logs(run: Run, folder: Path, status: str) -> None:
    """Add the closing line to the logs, and store them."""
    performance.info("%s", _summary(run.store.get(run.run_id), status))
    run.folder(folder, "logs")


def _summary(record: RunRecord, status: str) -> str:
    """One line: minutes, number of folds, and the means over folds where there are any."""
    minutes = (time.time() - record.start_time / 1000) / 60
    means = {
        name.removeprefix("eval_"): f"{value:.4f}"
        for name, value in sorted(record.metrics.items())
        if name.startswith("eval_") and not re.search(r"fold\d|_ci_|_n_undefined", name)
    }
    facts = {"minutes": f"{minutes:.2f}", "n_folds": record.tags.get("num_folds"), **means}
    shown = " ".join(f"{name}={value}" for name, value in facts.items() if value is not None)
    return f"{record.tags.get(names.KIND)} {record.name} {status} {shown}"


def end(run: Run, status: str, tags: Mapping[str, str]) -> None:
    """Set the final status, unless the run has one already."""
    found = run.store.get(run.run_id)
    if found.status not in ("RUNNING", "SCHEDULED"):
        log.warning("Run %s is %s already; it stays so.", run.run_id, found.status)
        return
    run.tags({**tags, "run_status": status})
    with door(f"end run {run.run_id}"):
        run.store.client.set_terminated(run.run_id, status)
