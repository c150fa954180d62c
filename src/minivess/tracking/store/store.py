"""The MLflow store: experiments, runs found by content key, artifacts."""

from __future__ import annotations

import json
import logging
import re
import shlex
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import urlsplit

from pydantic import BaseModel, ValidationError

from minivess import names
from minivess.config import TrackingConfig
from minivess.contracts import RunRecord
from minivess.errors import DeletedRunError, StoreError, StoreUnreachable
from minivess.home import Home
from minivess.tracking.store import artifacts
from minivess.tracking.store.connection import (
    ABSENT,
    EXISTS,
    PAGE,
    all_pages,
    connect_client,
    probe_store,
    redact,
    store_address,
    translate_errors,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run

REFERENCE = re.compile(r"uid-([0-9a-f]{32})")
"""Reference to a run that has no id in MLflow yet."""
RUN_NAME = "attributes.run_name"
SETTLE_FIRST = "once MLflow answers: `minivess settle`, then the same command"
T = TypeVar("T")
C = TypeVar("C", bound=BaseModel)
log = logging.getLogger(__name__)


class RunPending(StoreUnreachable):
    """A run is still in the journal and not in MLflow."""


def open_store(home: Home, tracking: TrackingConfig) -> Store:
    """Open the configured store; the default is SQLite in the home folder.

    Raises:
        StoreUnreachable: it does not answer within five seconds.
        StoreError: it cannot be opened.
    """
    store = store_at(home, tracking)
    store.connect()
    return store


def store_at(home: Home, tracking: TrackingConfig) -> Store:
    """Return the store without connecting to it."""
    uri = store_address(home, tracking)
    root = tracking.artifact_root
    if root is None and not uri.startswith(("http:", "https:", "databricks")):
        root = home.artifacts.as_uri()
    elif root is not None and not urlsplit(root).scheme:
        root = Path(root).expanduser().resolve().as_uri()
    return Store(uri=uri, home=home, artifact_root=root)


@dataclass
class Store:
    """One MLflow store, always addressed explicitly."""

    uri: str
    home: Home
    artifact_root: str | None = None
    unreachable: bool = False
    """Whether the last attempt to connect failed; work continues without it."""
    uploader: Any = field(default=None, repr=False)
    """The uploader of this process's journals: see `journal.uploader.of`."""
    _client: MlflowClient | None = field(default=None, repr=False)
    _names: dict[str, str] = field(default_factory=dict, repr=False)
    _ids: dict[str, str] = field(default_factory=dict, repr=False)
    _renamed: set[str] = field(default_factory=set, repr=False)

    @property
    def client(self) -> MlflowClient:
        """MLflow's client, connected at its first use."""
        if self._client is None:
            self._client = connect_client(self.home, self.uri)
        return self._client

    def connect(self) -> None:
        """Connect, or probe the store again.

        Raises:
            StoreUnreachable: it does not answer within five seconds.
            StoreError: it cannot be opened.
        """
        try:
            if self._client is None:
                self._client = connect_client(self.home, self.uri)
            else:
                probe_store(self.uri)
        except StoreUnreachable:
            self.unreachable = True
            raise
        self.unreachable = False

    # --- runs that the store has no id for yet --------------------------------------------

    def by_uid(self, uid: str, *, deleted: bool = True) -> list[str]:
        """Return ids of the runs with this uid: one that ended first, else that of most values."""
        from mlflow.entities import ViewType

        with translate_errors(f"search the runs at {redact(self.uri)}"):
            runs = self.client.search_runs(
                self._experiment_ids(None),
                f"tags.`{names.UID}` = '{uid}'",
                ViewType.ALL if deleted else ViewType.ACTIVE_ONLY,
            )

        def rank(run: Run) -> tuple[bool, int, str]:
            held = len(run.data.params) + len(run.data.metrics)
            return run.info.status == "RUNNING", -held, run.info.run_id

        runs.sort(key=rank)
        return [str(run.info.run_id) for run in runs]

    def has_journal(self, record: RunRecord) -> bool:
        """Whether a journal of this home still holds operations of a run."""
        return (self.home.journal / f"{record.tags.get(names.UID)}.jsonl").exists()

    def resolve(self, text: str) -> str:
        """Replace every `uid-...` in a text by the run id in MLflow.

        Raises:
            RunPending: a run is not in MLflow yet.
        """
        return REFERENCE.sub(lambda found: self._id(found[1]), text)

    def resolved(self, value: T) -> T:
        """Replace every `uid-...` in a JSON value."""
        text = json.dumps(value)
        return cast("T", json.loads(self.resolve(text))) if REFERENCE.search(text) else value

    def remember_id(self, uid: str, run_id: str) -> None:
        """Remember the run id of a uid."""
        self._ids[uid] = run_id

    def _id(self, uid: str) -> str:
        if uid not in self._ids:
            found = self.by_uid(uid)
            if not found:
                raise RunPending(
                    f"The run uid-{uid} has not reached MLflow yet.", remedy=SETTLE_FIRST
                )
            self._ids[uid] = found[0]
        return self._ids[uid]

    # --- experiments ----------------------------------------------------------------------

    def experiment_id(self, name: str, *, dataset: str, note: str) -> str:
        """Return the id of an experiment; create or restore it if needed."""
        with translate_errors(f"open the experiment {name!r}"):
            found = self._experiment(name) or self._create(name)
            if found.lifecycle_stage == "deleted":
                # A deleted experiment keeps its name, so a new one could not be made beside it.
                log.warning("The MLflow experiment %r was deleted; it is restored.", name)
                self.client.restore_experiment(found.experiment_id)
            for tag, value in self._experiment_tags(
                found, self._name_of(found), dataset, note
            ).items():
                self.client.set_experiment_tag(found.experiment_id, tag, value)
        return str(found.experiment_id)

    def _create(self, name: str) -> Experiment:
        from mlflow.exceptions import MlflowException

        place = None
        if self.artifact_root:
            bounded = not self.uri.startswith("sqlite")
            place = artifacts.folder(self.artifact_root, name, bounded=bounded)
        try:
            self.client.create_experiment(name, artifact_location=place)
        except MlflowException as error:
            # Another process may have created it meanwhile.
            if error.error_code != EXISTS:
                raise
        made = self.client.get_experiment_by_name(name)
        if made is None:
            raise StoreError(
                f"The experiment {name!r} was made but cannot be read back.",
                remedy="run the same command again",
            )
        return made

    @staticmethod
    def _experiment_tags(found: Experiment, name: str, dataset: str, note: str) -> dict[str, str]:
        known = [part for part in found.tags.get("dataset", "").split(", ") if part]
        datasets = known if dataset in known else [*known, dataset]
        # The text can be edited on MLflow's page, and the name is the one it was made under.
        once = {names.NOTE: note, names.GROUP: name}
        wanted = once | found.tags | {"project": names.PROJECT, "dataset": ", ".join(datasets)}
        return {tag: value for tag, value in wanted.items() if found.tags.get(tag) != value}

    def _experiment(self, name: str) -> Experiment | None:
        """Find an experiment by name; one renamed in MLflow by its tag, or the tags of its runs."""
        found = self.client.get_experiment_by_name(name)
        if found is not None and found.lifecycle_stage != "deleted":
            return found
        renamed = next((e for e in self._ours() if self._name_of(e) == name), None)
        if renamed is not None and name not in self._renamed:
            log.warning("The experiment %r is called %r in MLflow now.", name, renamed.name)
            self._renamed.add(name)
        return renamed or found

    def _ours(self) -> list[Experiment]:
        ours = f"tags.project = '{names.PROJECT}'"
        return list(all_pages(self.client.search_experiments, filter_string=ours))

    def _name_of(self, experiment: Experiment) -> str:
        """The name that an experiment was made under: its tag, in older stores that of its runs."""
        place, name = experiment.experiment_id, experiment.tags.get(names.GROUP)
        if place not in self._names:
            is_older = name is None and experiment.tags.get("project") == names.PROJECT
            if is_older and experiment.name not in names.OWN_EXPERIMENTS:
                runs = self.client.search_runs(
                    [place], f"tags.{names.GROUP} LIKE '%'", max_results=1
                )
                name = runs[0].data.tags[names.GROUP] if runs else None
            self._names[place] = name or experiment.name
        return self._names[place]

    def restoring(self, experiment: str) -> str | None:
        """Return the command that restores a deleted experiment; None if it is not deleted."""
        with translate_errors(f"open the experiment {experiment!r}"):
            found = self._experiment(experiment)
        if found is None or found.lifecycle_stage != "deleted":
            return None
        return self.command(f"experiments restore --experiment-id {found.experiment_id}")

    def _experiment_ids(self, experiment: str | None) -> list[str]:
        if experiment is None:
            return [one.experiment_id for one in all_pages(self.client.search_experiments)]
        found = self._experiment(experiment)
        return [] if found is None or found.lifecycle_stage == "deleted" else [found.experiment_id]

    def experiments(self) -> dict[str, list[str]]:
        """Return our experiments, by the names that they were made under: name -> datasets."""
        with translate_errors(f"list the experiments at {redact(self.uri)}"):
            return {
                self._name_of(e): [d for d in e.tags.get("dataset", "").split(", ") if d]
                for e in self._ours()
            }

    # --- runs -----------------------------------------------------------------------------

    def find(self, key: str, *, experiment: str) -> RunRecord | None:
        """Return the newest FINISHED run with this content key."""
        return self.last(key, experiment=experiment, status="FINISHED")

    def last(self, key: str, *, experiment: str, status: str | None = None) -> RunRecord | None:
        """Return the newest run with this content key, by default whatever its status."""
        found = self._search([f"tags.{names.KEY} = '{key}'"], experiment, status, limit=1)
        return found[0] if found else None

    def latest(
        self, *, experiment: str | None = None, kind: str, params: Mapping[str, str] | None = None
    ) -> RunRecord | None:
        """Return the newest FINISHED run of a kind, optionally with these params."""
        filters = [f"tags.`{names.KIND}` = '{kind}'"]
        filters += [f"params.{name} = {quoted(value)}" for name, value in (params or {}).items()]
        return next(iter(_ranked(self._search(filters, experiment, "FINISHED"))), None)

    def search(
        self,
        *,
        experiment: str | None = None,
        kind: str | None = None,
        parent: str | None = None,
        status: str | None = None,
        name: str | None = None,
    ) -> list[RunRecord]:
        """Return runs that are not deleted, newest first (see `rank`)."""
        given = (f"tags.`{names.KIND}`", kind), (f"tags.`{names.PARENT}`", parent), (RUN_NAME, name)
        filters = [f"{what} = {quoted(value)}" for what, value in given if value is not None]
        return _ranked(self._search(filters, experiment, status))

    def _search(
        self,
        filters: list[str],
        experiment: str | None,
        status: str | None,
        limit: int | None = None,
    ) -> list[RunRecord]:
        if status is not None:
            filters = [*filters, f"attributes.status = '{status}'"]
        with translate_errors(f"search the runs at {redact(self.uri)}"):
            ids = self._experiment_ids(experiment)
            if not ids:
                return []
            found = all_pages(
                self.client.search_runs,
                experiment_ids=ids,
                filter_string=" and ".join(filters),
                max_results=limit or PAGE,
                order_by=["attributes.start_time DESC"],
            )
            return [self.record(run) for run in islice(found, limit)]

    def get(self, run_id: str) -> RunRecord:
        """Return one run.

        Raises:
            StoreError: there is no such run, or it was deleted.
        """
        run_id = self.resolve(run_id)
        try:
            with translate_errors(f"read run {run_id}"):
                run = self.client.get_run(run_id)
                if run.info.lifecycle_stage != "deleted":
                    return self.record(run)
                restoring = self._restoring(run)
        except StoreError as error:
            if error.code not in ABSENT:
                raise
            raise StoreError(
                f"There is no run {run_id} in the MLflow store at {redact(self.uri)}.",
                remedy="copy the id from `minivess runs --all`, or MLflow's page (`minivess ui`)",
            ) from error
        raise DeletedRunError(
            f"Run {run_id} was deleted from the MLflow store.",
            remedy=f"{restoring}, or give another run",
        )

    def _restoring(self, run: Run) -> str:
        """The command that brings a deleted run back, or its experiment, which takes it along."""
        experiment = run.info.experiment_id
        if self.client.get_experiment(experiment).lifecycle_stage == "deleted":
            return self.command(f"experiments restore --experiment-id {experiment}")
        return self.command(f"runs restore --run-id {run.info.run_id}")

    def record(self, run: Run) -> RunRecord:
        """Convert a run of MLflow's; a metric whose last value is undefined is left out."""
        info = run.info
        return RunRecord(
            run_id=info.run_id,
            name=info.run_name or "",
            experiment=self.experiment_name(info.experiment_id),
            status=info.status,
            start_time=info.start_time,
            end_time=info.end_time,
            artifact_uri=info.artifact_uri,
            params=run.data.params,
            tags=run.data.tags,
            metrics={name: v for name, v in run.data.metrics.items() if v == v and abs(v) < 1e308},
        )

    def experiment_name(self, experiment_id: str) -> str:
        """Return the name that an experiment was made under; one renamed in MLflow keeps it."""
        if experiment_id not in self._names:
            self._name_of(self.client.get_experiment(experiment_id))
        return self._names[experiment_id]

    def command(self, words: str) -> str:
        """Return a shell command of MLflow's CLI on this store."""
        variable = f"MLFLOW_TRACKING_URI={shlex.quote(redact(self.uri))}"
        return f"{variable} {shlex.quote(sys.executable)} -m mlflow {words}"

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Write or replace tags of a run, whatever its status."""
        from mlflow.entities import RunTag

        run_id = self.resolve(run_id)
        batch = [RunTag(name, str(value)) for name, value in tags.items()]
        with translate_errors(f"write tags of run {run_id}"):
            self.client.log_batch(run_id, tags=batch, synchronous=True)

    def url(self, run_id: str, ui: str) -> str:
        """Return the address of a run's page; `ui` is the address of MLflow's UI."""
        run_id = self.resolve(run_id)
        with translate_errors(f"read run {run_id}"):
            experiment = self.client.get_run(run_id).info.experiment_id
        return f"{ui.rstrip('/')}/#/experiments/{experiment}/runs/{run_id}"

    # --- artifacts ------------------------------------------------------------------------

    def read_json(self, run_id: str, path: str) -> Any:
        """Read a JSON artifact of a run.

        Raises:
            StoreError: it is absent, or not valid JSON.
        """
        text = self.read_text(run_id, path)
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise StoreError(
                f"The artifact {path} of run {run_id} is not valid JSON ({error}).",
                remedy="run the flow that made it again",
            ) from error

    def read_contract(self, run_id: str, path: str, contract: type[C], *, remedy: str) -> C:
        """Read a JSON artifact of a run as a contract.

        Raises:
            StoreError: it is absent, or not valid; the message names the first wrong field.
        """
        try:
            return contract.model_validate(self.read_json(run_id, path))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise StoreError(
                f"{path} of run {run_id} is not a valid {contract.__name__}: {where}: "
                f"{first['msg']}.",
                remedy=remedy,
            ) from error

    def read_text(self, run_id: str, path: str) -> str:
        """Read a text artifact of a run; one on a local disk where it lies."""
        with translate_errors(f"read run {run_id}"):
            uri = self.client.get_run(self.resolve(run_id)).info.artifact_uri
        root = artifacts.local_folder(uri)
        if root is not None and (root / path).is_file():
            return (root / path).read_text(encoding="utf-8")
        with tempfile.TemporaryDirectory(prefix="minivess-") as folder:
            return self.download(run_id, path, Path(folder)).read_text(encoding="utf-8")

    def download(self, run_id: str, path: str, into: Path) -> Path:
        """Download an artifact (file or folder) to `into`/<its name>; a complete copy is kept.

        Raises:
            StoreError: it is absent, or a downloaded file has another size than in the store.
        """
        return artifacts.download(self.client, self.resolve(run_id), path, into)

    def artifacts(self, run_id: str, path: str | None = None) -> dict[str, int]:
        """Return artifact path -> size in bytes, of a run or of one of its folders."""
        return artifacts.listing(self.client, self.resolve(run_id), path)

    def probe_write(self) -> None:
        """Write a small file where artifacts go, read it back and remove it.

        Raises:
            StoreError: the artifact store cannot be written.
        """
        artifacts.try_writing(self.artifact_root or self._place_of_server(), self.uri)

    def _place_of_server(self) -> str:
        with translate_errors(f"find the artifact store of {redact(self.uri)}"):
            found = self.client.search_experiments(max_results=1)
        return found[0].artifact_location if found else self.home.artifacts.as_uri()


def publication_time(record: RunRecord) -> int:
    """Return when a run was last published by a command, else when it began (ms since 1970)."""
    stamp = record.tags.get(names.PUBLISHED, "")
    return max(int(stamp) if stamp.isdecimal() else 0, record.start_time)


def _ranked(records: list[RunRecord]) -> list[RunRecord]:
    return sorted(records, key=publication_time, reverse=True)


def quoted(value: str) -> str:
    """Quote a value for MLflow's filters."""
    return f'"{value}"' if "'" in value else f"'{value}'"
