"""One MLflow run: what is written into it, and how it may end."""

from __future__ import annotations

import getpass
import json
import logging
import math
import re
import tempfile
import threading
import time
import traceback
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from minivess import keys, names
from minivess.config import ExperimentConfig
from minivess.contracts import DatasetProfile, RunRecord
from minivess.errors import StoreError
from minivess.tracking import environment, logs, process
from minivess.tracking.connection import door
from minivess.tracking.store import Store, require_sizes
from minivess.tracking.values import metric, plain, text

TEXT_LIMIT = 500
BATCH = 100
SIZE_LIMIT = 100 * 2**20
LARGE = ("checkpoints", "model", "export", "service")
CONTEXTS = {names.PROFILE: "profiling", names.ANALYSIS: "evaluation", names.DEPLOYMENT: "serving"}
INTERRUPTED = (130, 143)
# Exceptions by which Prefect and asyncio say "stop", though they derive from Exception.
CANCELLATIONS = ("CancelledRun", "CancelledError")
log = logging.getLogger(__name__)
performance = logging.getLogger(logs.PERFORMANCE_LOGGER)


class Run:
    """A run that can be written to; every write is one call to the store."""

    def __init__(self, store: Store, run_id: str, *, uid: str, name: str, kind: str) -> None:
        self.store, self.run_id, self.uid, self.name, self.kind = store, run_id, uid, name, kind
        self.failure: tuple[str, str] | None = None
        self._params: dict[str, str] = {}
        self._sent: dict[tuple[str, int], float] = {}
        self._lock = threading.Lock()

    def fail(self, error_type: str, reason: str) -> None:
        """Let the run end FAILED though its block returns, because a part of it failed."""
        self.failure = (error_type, reason)

    # --- values ---------------------------------------------------------------------------

    def params(self, values: Mapping[str, Any]) -> None:
        """Write params: a second equal write does nothing, a different one is refused by name.

        Values above 500 characters become an artifact; the param holds their count and hash.

        Raises:
            StoreError: a param would change.
        """
        from mlflow.entities import Param

        fresh = {}
        for name, value in values.items():
            written = self._shortened(name, value)
            if name not in self._params:
                fresh[name] = written
            elif self._params[name] != written:
                raise StoreError(
                    f"The param {name} of run {self.run_id} is {self._params[name]!r} and cannot "
                    f"become {written!r}.",
                    remedy=f"write it once, or under another name such as resume1_{name}",
                )
        batch = [Param(name, value) for name, value in fresh.items()]
        with door(f"write params of run {self.run_id}"):
            for start in range(0, len(batch), BATCH):
                self.store.client.log_batch(
                    self.run_id, params=batch[start : start + BATCH], synchronous=True
                )
        self._params |= fresh

    def _shortened(self, name: str, value: Any) -> str:
        written = text(value)
        if len(written) <= TEXT_LIMIT:
            return written
        counted = value if isinstance(value, list | tuple | dict | set | frozenset) else written
        short = f"{len(counted)} {'values' if counted is value else 'characters'}, " + (
            f"hash {keys.digest(written)}, in params/{name}.json"
        )
        if self._params.get(name) != short:
            self.json(value, f"params/{name}.json")
        return short

    def metrics(self, values: Mapping[str, float | None], step: int) -> None:
        """Write the metrics of one step in one call; None and what was sent before are skipped."""
        from mlflow.entities import Metric

        now = time.time_ns() // 1_000_000
        with self._lock:
            fresh = {}
            for name, value in values.items():
                number = metric(name, value)
                if number is None or self._same(self._sent.get((name, step)), number):
                    continue
                fresh[name] = number
            if not fresh:
                return
            batch = [Metric(name, value, now, step) for name, value in fresh.items()]
            with door(f"write metrics of run {self.run_id}"):
                self.store.client.log_batch(self.run_id, metrics=batch, synchronous=True)
            self._sent |= {(name, step): value for name, value in fresh.items()}

    @staticmethod
    def _same(before: float | None, now: float) -> bool:
        return before is not None and (before == now or (math.isnan(before) and math.isnan(now)))

    def tags(self, values: Mapping[str, str]) -> None:
        """Write or replace tags."""
        self.store.set_tags(self.run_id, values)

    def dataset(self, profile: DatasetProfile) -> None:
        """Register the dataset as the run's input: name, digest, where the originals lie."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        described = Dataset(
            name=profile.dataset,
            digest=profile.dataset_hash,
            source_type="local",
            source=json.dumps({"uri": profile.dataset_path}),
            profile=json.dumps({"n_volumes": profile.n_volumes, "gb": profile.total_size_gb}),
        )
        context = InputTag("mlflow.data.context", CONTEXTS.get(self.kind, "training"))
        with door(f"write the dataset of run {self.run_id}"):
            self.store.client.log_inputs(self.run_id, [DatasetInput(described, [context])])

    # --- artifacts ------------------------------------------------------------------------

    def file(self, path: Path, to: str = "") -> None:
        """Store a file, under its own name, in the artifact folder `to`; its size is verified.

        Raises:
            StoreError: it is larger than artifacts may be, or did not arrive whole.
        """
        size = path.stat().st_size
        if size > SIZE_LIMIT and PurePosixPath(to or ".").parts[:1] not in {(p,) for p in LARGE}:
            raise StoreError(
                f"{path.name} has {size / 2**20:.0f} MB; only checkpoints, models and services may "
                "be above 100 MB in MLflow.",
                remedy=f"store it under one of {', '.join(LARGE)}, or leave it out",
            )
        with door(f"store {path.name} in run {self.run_id}"):
            self.store.client.log_artifact(self.run_id, str(path), to or None)
            listed = self.store.client.list_artifacts(self.run_id, to or None)
        found = {entry.path: int(entry.file_size or 0) for entry in listed}
        require_sizes(found, {str(PurePosixPath(to) / path.name): size}, what=f"run {self.run_id}")

    def folder(self, path: Path, to: str = "") -> None:
        """Store every file below a folder in the artifact folder `to`; sizes are verified."""
        expected = {
            str(PurePosixPath(to) / file.relative_to(path).as_posix()): file.stat().st_size
            for file in sorted(path.rglob("*"))
            if file.is_file()
        }
        with door(f"store {path.name}/ in run {self.run_id}"):
            self.store.client.log_artifacts(self.run_id, str(path), to or None)
        found: dict[str, int] = {}
        for top in {to} if to else {PurePosixPath(name).parts[0] for name in expected}:
            found |= self.store.artifacts(self.run_id, top)
        require_sizes(found, expected, what=f"run {self.run_id}")

    def json(self, value: Any, to: str) -> None:
        """Store a value as the JSON artifact `to`; undefined numbers become null."""
        self.text(json.dumps(plain(value), indent=2, allow_nan=False) + "\n", to)

    def text(self, value: str, to: str) -> None:
        """Store text as the artifact `to`."""
        target = PurePosixPath(to)
        with tempfile.TemporaryDirectory(prefix="minivess-") as temporary:
            path = Path(temporary) / target.name
            path.write_text(value, encoding="utf-8")
            self.file(path, "" if target.parent == PurePosixPath() else str(target.parent))

    def table(self, rows: Sequence[Mapping[str, Any]], to: str) -> None:
        """Store rows as an MLflow table, written whole (MLflow's own writer appends)."""
        columns = list(dict.fromkeys(name for row in rows for name in row))
        data = [[plain(row.get(name)) for name in columns] for row in rows]
        self.json({"columns": columns, "data": data}, to)
        with door(f"read run {self.run_id}"):
            tags = self.store.client.get_run(self.run_id).data.tags
        known = json.loads(tags.get("mlflow.loggedArtifacts", "[]"))
        entry = {"path": to, "type": "table"}
        if entry not in known:
            self.tags({"mlflow.loggedArtifacts": json.dumps([*known, entry])})


def attach(store: Store, run_id: str) -> Run:
    """A run that exists already, to add tags or artifacts to it; its status stays.

    Raises:
        StoreError: there is no such run.
    """
    record = store.get(run_id)
    tags = record.tags
    run = Run(
        store, run_id, uid=tags.get(names.UID, ""), name=record.name, kind=tags.get(names.KIND, "")
    )
    run._params = dict(record.params)
    return run


# --- a run's life -------------------------------------------------------------------------


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
        experiment_id = store.experiment_id(
            experiment, dataset=dataset, note=EXPERIMENT_NOTES[kind]
        )
        run = _open(store, experiment_id, name, kind, own)
        try:
            log.info("%s run %s (%s) starts.", kind, name, run.run_id)
            if config.tracking.log_system_metrics:
                from minivess.tracking import system

                interval = config.tracking.system_metrics_interval_s
                stack.callback(system.monitor(run, interval))
            _describe(run, config, ingredients)
            yield run
        except BaseException as error:
            stack.close()
            _end_in_trouble(run, error, log_folder)
            raise
        stack.close()
        _end(run, *_after_return(run), log_folder)


EXPERIMENT_NOTES = {
    names.PROFILE: "Datasets: checked, measured, versioned.",
    names.FAMILY: "Training: a parent run per model, loss and seed, a child run per fold.",
    names.CELL: "Training: a parent run per model, loss and seed, a child run per fold.",
    names.ANALYSIS: "Evaluation: families and ensembles judged out of fold, and the champion.",
    names.DEPLOYMENT: "Deployment: export, parity, service and smoke test of champions.",
}


def _open(store: Store, experiment_id: str, name: str, kind: str, tags: dict[str, str]) -> Run:
    started = time.time_ns() // 1_000_000
    commit = environment.collect().params["sys_git_commit"]
    everything = {
        **process.identity(),
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
    return Run(store, made.info.run_id, uid=tags[names.UID], name=name, kind=kind)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def _describe(run: Run, config: ExperimentConfig, ingredients: keys.Ingredients) -> None:
    surroundings = environment.collect()
    run.params(surroundings.params)
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
        run.folder(Path(temporary))


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


def _after_return(run: Run) -> tuple[str, dict[str, str]]:
    if run.failure is None:
        return "FINISHED", {}
    log.error("%s", run.failure[1])
    return "FAILED", {"error_type": run.failure[0], "error_message": run.failure[1]}


def _end_in_trouble(run: Run, error: BaseException, log_folder: Path) -> None:
    """End a run whose block raised; trouble with the store must not hide that error."""
    status = outcome(error)
    tags: dict[str, str] = {}
    try:
        if status != "FINISHED":
            tags = {"error_type": type(error).__name__, "error_message": str(error)[:TEXT_LIMIT]}
            log.error("%s run %s ends %s: %s", run.kind, run.name, status, type(error).__name__)
            run.text("".join(traceback.format_exception(error)), "traceback.txt")
        _end(run, status, tags, log_folder)
    except StoreError as trouble:
        log.warning("Run %s could not be ended as %s: %s", run.run_id, status, trouble.problem)


def _summary(record: RunRecord, status: str, minutes: float) -> str:
    """One line: minutes, number of folds, and the means over folds where there are any."""
    means = {
        name.removeprefix("eval_"): f"{value:.4f}"
        for name, value in sorted(record.metrics.items())
        if name.startswith("eval_") and not re.search(r"fold\d|_ci_|_n_undefined", name)
    }
    facts = {"minutes": f"{minutes:.2f}", "n_folds": record.tags.get("num_folds"), **means}
    shown = " ".join(f"{name}={value}" for name, value in facts.items() if value is not None)
    return f"{record.tags.get(names.KIND)} {record.name} {status} {shown}"


def _end(run: Run, status: str, tags: dict[str, str], log_folder: Path) -> None:
    """Store the logs and set the final status, unless the run has one already."""
    found = run.store.get(run.run_id)
    minutes = (time.time() - found.start_time / 1000) / 60
    performance.info("%s", _summary(found, status, minutes))
    run.folder(log_folder, "logs")
    if found.status not in ("RUNNING", "SCHEDULED"):
        log.warning("Run %s is %s already; it stays so.", run.run_id, found.status)
        return
    run.tags({**tags, "run_status": status})
    with door(f"end run {run.run_id}"):
        run.store.client.set_terminated(run.run_id, status)
