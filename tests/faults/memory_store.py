"""An MLflow store in memory, whose clients fail, time out and deliver late as they are told."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow.entities import (
    Experiment,
    ExperimentTag,
    FileInfo,
    LifecycleStage,
    Metric,
    Param,
    Run,
    RunData,
    RunInfo,
    RunTag,
    ViewType,
)
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    INTERNAL_ERROR,
    INVALID_PARAMETER_VALUE,
    RESOURCE_ALREADY_EXISTS,
    RESOURCE_DOES_NOT_EXIST,
)
from mlflow.store.entities.paged_list import PagedList

CLAUSE = re.compile(r"(tags|attributes)\.`?([\w.]+)`? = '([^']*)'")
FIELD = re.compile(r"\b(name|run_id)\s*=\s*'([^']*)'")


class Death(BaseException):
    """The process that made the request is killed."""


@dataclass
class StoredRun:
    """What the store holds of one run."""

    run_id: str
    experiment_id: str
    name: str
    start: int
    tags: dict[str, str]
    status: str = "RUNNING"
    end: int | None = None
    deleted: bool = False
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[tuple[str, int, int, float], int] = field(default_factory=dict)
    """(name, time, step, value) -> place in the order of arrival; a row stands once."""
    files: dict[str, bytes] = field(default_factory=dict)

    @property
    def attributes(self) -> dict[str, str]:
        """What filters call attributes."""
        return {"status": self.status, "run_name": self.name}


@dataclass
class StoredVersion:
    """A version of a registered model."""

    name: str
    version: str
    run_id: str
    tags: dict[str, str]


@dataclass
class StoredModel:
    """A registered model with its versions."""

    name: str
    tags: dict[str, str]
    aliases: dict[str, str] = field(default_factory=dict)
    versions: dict[str, StoredVersion] = field(default_factory=dict)


@dataclass
class MemoryStore:
    """The server: one state, reached by many clients."""

    experiments: dict[str, Experiment] = field(default_factory=dict)
    runs: dict[str, StoredRun] = field(default_factory=dict)
    models: dict[str, StoredModel] = field(default_factory=dict)
    late: list[Callable[[], Any]] = field(default_factory=list)
    """Requests on their way, which arrive after their sender has given up on them."""

    def deliver(self, place: int) -> None:
        """Let one late request arrive."""
        request = self.late.pop(place)
        try:
            request()
        except MlflowException:
            return  # nobody waits for its answer


class MemoryClient:
    """The calls of `MlflowClient` that a run's way into the store takes.

    `fate` is asked before each change: `done`, `refused` (nothing happens), `lost` (it happens, the
    answer does not arrive), `late` (it happens later), `twice`; `dead` and `dying` kill the process
    that asks, before and after it happens. `away` refuses every call.
    A file is never late: no client can help a store that takes an older file after a newer one.
    """

    def __init__(self, server: MemoryStore, fate: Callable[[], str]) -> None:
        self.server, self.fate, self.away = server, fate, False

    def _change(self, request: Callable[[], Any], *, may_be_late: bool = True) -> Any:
        self._reach()
        match self.fate():
            case "refused":
                raise _silence()
            case "lost":
                request()
                raise _silence()
            case "late" if may_be_late:
                self.server.late.append(request)
                raise _silence()
            case "late":
                raise _silence()
            case "dead":
                raise Death
            case "dying":
                request()
                raise Death
            case "twice":
                request()
        return request()

    def _reach(self) -> None:
        if self.away:
            raise _silence()

    # --- experiments ----------------------------------------------------------------------

    def search_experiments(self, filter_string: str = "", **_: Any) -> PagedList[Experiment]:
        """All active experiments that fit the tags asked for."""
        self._reach()
        wanted = {name: value for _, name, value in CLAUSE.findall(filter_string)}
        return PagedList(
            [e for e in self.server.experiments.values() if wanted.items() <= e.tags.items()], None
        )

    def get_experiment_by_name(self, name: str) -> Experiment | None:
        """The experiment of this name."""
        self._reach()
        return next((e for e in self.server.experiments.values() if e.name == name), None)

    def get_experiment(self, experiment_id: str) -> Experiment:
        """The experiment of this id."""
        self._reach()
        return self.server.experiments[experiment_id]

    def create_experiment(self, name: str, artifact_location: str | None = None) -> str:
        """Make an experiment."""

        def request() -> str:
            if any(e.name == name for e in self.server.experiments.values()):
                raise MlflowException("it exists", RESOURCE_ALREADY_EXISTS)
            number = str(len(self.server.experiments) + 1)
            self.server.experiments[number] = Experiment(
                number, name, artifact_location, LifecycleStage.ACTIVE, []
            )
            return number

        return str(self._change(request))

    def set_experiment_tag(self, experiment_id: str, name: str, value: str) -> None:
        """Set one tag."""
        experiment = self.server.experiments[experiment_id]
        self._change(lambda: experiment._add_tag(ExperimentTag(name, value)))

    # --- runs -----------------------------------------------------------------------------

    def create_run(
        self, experiment_id: str, start_time: int, tags: dict[str, str], run_name: str
    ) -> Run:
        """Make a run; asked twice, it makes two."""

        def request() -> Run:
            made = StoredRun(uuid.uuid4().hex, experiment_id, run_name, start_time, dict(tags))
            self.server.runs[made.run_id] = made
            return _entity(made)

        made: Run = self._change(request)
        return made

    def search_runs(
        self,
        experiment_ids: list[str],
        filter_string: str = "",
        run_view_type: int = ViewType.ACTIVE_ONLY,
        **_: Any,
    ) -> PagedList[Run]:
        """The runs that fit, newest first."""
        self._reach()
        clauses = CLAUSE.findall(filter_string)
        found = [
            _entity(run)
            for run in self.server.runs.values()
            if run.experiment_id in experiment_ids
            and (run_view_type == ViewType.ALL or not run.deleted)
            and all(
                (run.tags if kind == "tags" else run.attributes).get(name) == value
                for kind, name, value in clauses
            )
        ]
        return PagedList(sorted(found, key=lambda run: -run.info.start_time), None)

    def get_run(self, run_id: str) -> Run:
        """One run."""
        self._reach()
        return _entity(self._run(run_id))

    def delete_run(self, run_id: str) -> None:
        """Mark a run as deleted."""
        self._change(lambda: setattr(self._run(run_id), "deleted", True))

    def set_terminated(self, run_id: str, status: str, end_time: int) -> None:
        """End a run."""

        def request() -> None:
            run = self._run(run_id)
            run.status, run.end = status, end_time

        self._change(request)

    def log_batch(
        self,
        run_id: str,
        metrics: list[Metric] | tuple[()] = (),
        params: list[Param] | tuple[()] = (),
        tags: list[RunTag] | tuple[()] = (),
        **_: Any,
    ) -> None:
        """Write values; the same row of a metric twice is one row, a changed param is refused."""

        def request() -> None:
            run = self._run(run_id)
            if any(run.params.get(p.key, p.value) != p.value for p in params):
                raise MlflowException("a param changes", INVALID_PARAMETER_VALUE)
            run.params |= {one.key: one.value for one in params}
            run.tags |= {one.key: one.value for one in tags}
            for one in metrics:
                row = (one.key, one.timestamp, one.step, one.value)
                run.metrics.setdefault(row, len(run.metrics))

        self._change(request)

    def log_param(self, run_id: str, key: str, value: str) -> None:
        """Write one param."""
        self.log_batch(run_id, params=[Param(key, value)])

    def get_metric_history(self, run_id: str, key: str) -> list[Metric]:
        """All rows of one metric."""
        self._reach()
        return [
            Metric(name, value, stamp, step)
            for name, stamp, step, value in self._run(run_id).metrics
            if name == key
        ]

    # --- artifacts ------------------------------------------------------------------------

    def log_artifact(self, run_id: str, local_path: str, artifact_path: str | None = None) -> None:
        """Store a file."""
        path = Path(local_path)
        content = path.read_bytes()
        to = f"{artifact_path}/{path.name}" if artifact_path else path.name
        self._change(lambda: self._run(run_id).files.__setitem__(to, content), may_be_late=False)

    def list_artifacts(self, run_id: str, path: str | None = None) -> list[FileInfo]:
        """The files of a run, or of one of its folders."""
        self._reach()
        files = self._run(run_id).files.items()
        inside = f"{path}/" if path else ""
        return [FileInfo(to, False, len(content)) for to, content in files if to.startswith(inside)]

    def download_artifacts(self, run_id: str, path: str, dst_path: str) -> str:
        """Write a file of a run below a folder; returns its path there."""
        self._reach()
        to = Path(dst_path) / path
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_bytes(self._run(run_id).files[path])
        return str(to)

    # --- registered models ------------------------------------------------------------------

    def create_registered_model(self, name: str, tags: dict[str, str]) -> None:
        """Make a model."""

        def request() -> None:
            if name in self.server.models:
                raise MlflowException("it exists", RESOURCE_ALREADY_EXISTS)
            self.server.models[name] = StoredModel(name, dict(tags))

        self._change(request)

    def get_registered_model(self, name: str) -> StoredModel:
        """One model."""
        self._reach()
        return deepcopy(self._model(name))

    def search_registered_models(self, filter_string: str = "", **_: Any) -> PagedList[StoredModel]:
        """The models with these tags."""
        self._reach()
        wanted = {name: value for _, name, value in CLAUSE.findall(filter_string)}
        models = self.server.models.values()
        return PagedList([deepcopy(m) for m in models if wanted.items() <= m.tags.items()], None)

    def set_registered_model_tag(self, name: str, key: str, value: str) -> None:
        """Write or replace a tag."""
        self._change(lambda: self._model(name).tags.__setitem__(key, value))

    def set_registered_model_alias(self, name: str, alias: str, version: str) -> None:
        """Point an alias at a version that exists."""

        def request() -> None:
            self._version(name, version)
            self._model(name).aliases[alias] = version

        self._change(request)

    def create_model_version(
        self, name: str, source: str, run_id: str = "", tags: dict[str, str] | None = None, **_: Any
    ) -> StoredVersion:
        """Make a version; asked twice, it makes two."""

        def request() -> StoredVersion:
            there = self._model(name).versions
            number = str(max(map(int, there), default=0) + 1)
            there[number] = StoredVersion(name, number, run_id, tags or {})
            return there[number]

        made: StoredVersion = self._change(request)
        return made

    def get_model_version(self, name: str, version: str) -> StoredVersion:
        """One version by its number."""
        self._reach()
        return deepcopy(self._version(name, version))

    def get_model_version_by_alias(self, name: str, alias: str) -> StoredVersion:
        """The version that an alias points at."""
        self._reach()
        found = self._model(name).aliases.get(alias)
        if found is None:
            raise MlflowException(f"no alias {alias}", INVALID_PARAMETER_VALUE)
        return deepcopy(self._version(name, found))

    def search_model_versions(self, filter_string: str = "", **_: Any) -> PagedList[StoredVersion]:
        """The versions of a model, a run or both."""
        self._reach()
        wanted = dict(FIELD.findall(filter_string))
        found = [v for model in self.server.models.values() for v in model.versions.values()]
        fitting = [v for v in found if wanted.items() <= vars(v).items()]
        return PagedList(deepcopy(fitting), None)

    def _model(self, name: str) -> StoredModel:
        if name not in self.server.models:
            raise MlflowException(f"no model {name}", RESOURCE_DOES_NOT_EXIST)
        return self.server.models[name]

    def _version(self, name: str, version: str) -> StoredVersion:
        there = self._model(name).versions
        if version not in there:
            raise MlflowException(f"no version {version}", RESOURCE_DOES_NOT_EXIST)
        return there[version]

    def _run(self, run_id: str) -> StoredRun:
        if run_id not in self.server.runs:
            raise MlflowException(f"no run {run_id}", RESOURCE_DOES_NOT_EXIST)
        return self.server.runs[run_id]


def _silence() -> MlflowException:
    return MlflowException("the store does not answer", INTERNAL_ERROR)


def _entity(run: StoredRun) -> Run:
    info = RunInfo(
        run_id=run.run_id,
        experiment_id=run.experiment_id,
        user_id="tester",
        status=run.status,
        start_time=run.start,
        end_time=run.end,
        lifecycle_stage="deleted" if run.deleted else "active",
        artifact_uri=f"memory:/{run.run_id}",
        run_name=run.name,
    )
    latest: dict[str, Metric] = {}
    for name, stamp, step, value in run.metrics:
        if name not in latest or (latest[name].step, latest[name].timestamp) <= (step, stamp):
            latest[name] = Metric(name, value, stamp, step)
    return Run(
        info,
        RunData(
            list(latest.values()),
            [Param(*one) for one in run.params.items()],
            [RunTag(*one) for one in deepcopy(run.tags).items()],
        ),
    )
