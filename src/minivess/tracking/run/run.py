"""Write to one MLflow run: params, metrics, tags, datasets, artifacts."""

from __future__ import annotations

import json
import logging
import math
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from minivess import names
from minivess.contracts import DatasetProfile
from minivess.errors import StoreError
from minivess.tracking.journal import upload
from minivess.tracking.journal.journal import Operation
from minivess.tracking.run.encoding import encode_metric, param_text, plain_json, short_param
from minivess.tracking.store.store import Store

SIZE_LIMIT = 100 * 2**20
LARGE = ("checkpoints", "model", "export", "service")
CONTEXTS = {
    names.PROFILE: "profiling",
    names.ANALYSIS: "evaluation",
    names.ENSEMBLE: "evaluation",
    names.DEPLOYMENT: "serving",
}
log = logging.getLogger(__name__)


class Sink(Protocol):
    """Destination of a run's operations: its journal, or the store itself."""

    def append(self, operation: Operation) -> None:
        """Accept an operation."""

    def put(self, to: str, fill: Callable[[Path], object]) -> None:
        """Accept the file that `fill` writes as the artifact `to`."""


class Run:
    """A run to write to; no write waits for MLflow."""

    def __init__(self, sink: Sink, run_id: str, *, uid: str, name: str, kind: str) -> None:
        self._sink, self.run_id, self.uid, self.name, self.kind = sink, run_id, uid, name, kind
        self.failure: tuple[str, str] | None = None
        self.latest: dict[str, float] = {}
        """The newest value of each metric."""
        self.row: Mapping[str, float] = {}
        """The fold's row in the experiment's metrics.csv."""
        self.tables: list[dict[str, str]] = []
        self._params: dict[str, str] = {}
        self._sent: dict[tuple[str, int], float] = {}
        self._lock = threading.Lock()

    def fail(self, error_type: str, reason: str) -> None:
        """Make the run end FAILED although its block returns, because a part of it failed."""
        self.failure = (error_type, reason)

    # --- values ---------------------------------------------------------------------------

    def params(self, values: Mapping[str, Any]) -> None:
        """Write params; writing the same value again does nothing.

        Values above 500 characters become an artifact; the param holds their count and hash.

        Raises:
            StoreError: a param would change.
        """
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
        if fresh:
            self._sink.append({"op": "log", "params": fresh})
        self._params |= fresh

    def _shortened(self, name: str, value: Any) -> str:
        short = short_param(name, value)
        if short != param_text(value) and self._params.get(name) != short:
            self.json(value, f"params/{name}.json")
        return short

    def metrics(self, values: Mapping[str, float | None], step: int) -> None:
        """Write the metrics of one step; None and values written before are skipped."""
        now = time.time_ns() // 1_000_000
        with self._lock:
            fresh = {}
            for name, value in values.items():
                number = encode_metric(name, value)
                if number is None or self._same(self._sent.get((name, step)), number):
                    continue
                fresh[name] = number
            if not fresh:
                return
            written = {name: None if value != value else value for name, value in fresh.items()}
            self._sink.append({"op": "log", "metrics": written, "t": now, "step": step})
            self.latest |= fresh
            self._sent |= {(name, step): value for name, value in fresh.items()}

    @staticmethod
    def _same(before: float | None, now: float) -> bool:
        return before is not None and (before == now or (math.isnan(before) and math.isnan(now)))

    def tags(self, values: Mapping[str, str]) -> None:
        """Write or replace tags."""
        written = {name: str(value) for name, value in values.items()}
        self._sink.append({"op": "log", "tags": written})

    def dataset(self, profile: DatasetProfile) -> None:
        """Log the dataset as the run's input: name, digest, location of the originals."""
        described = {
            "name": profile.dataset,
            "digest": profile.dataset_hash,
            "uri": profile.dataset_path,
            "profile": {"n_volumes": profile.n_volumes, "gb": profile.total_size_gb},
            "context": CONTEXTS.get(self.kind, "training"),
        }
        self._sink.append({"op": "log", "dataset": described})

    # --- artifacts ------------------------------------------------------------------------

    def file(self, path: Path, to: str = "") -> None:
        """Store a file, under its own name, in the artifact folder `to`.

        Raises:
            StoreError: it is larger than artifacts may be.
        """
        size = path.stat().st_size
        if size > SIZE_LIMIT and PurePosixPath(to or ".").parts[:1] not in {(p,) for p in LARGE}:
            raise StoreError(
                f"{path.name} has {size / 2**20:.0f} MB; only checkpoints, models and services may "
                "be above 100 MB in MLflow.",
                remedy=f"store it under one of {', '.join(LARGE)}, or leave it out",
            )
        self._sink.put(str(PurePosixPath(to) / path.name), lambda copy: shutil.copyfile(path, copy))

    def folder(self, path: Path, to: str = "") -> None:
        """Store every file below a folder in the artifact folder `to`."""
        for file in sorted(path.rglob("*")):
            if file.is_file():
                self.file(file, str(PurePosixPath(to) / file.relative_to(path).parent))

    def json(self, value: Any, to: str) -> None:
        """Store a value as the JSON artifact `to`; undefined numbers become null."""
        self.text(json.dumps(plain_json(value), indent=2, allow_nan=False) + "\n", to)

    def text(self, value: str, to: str) -> None:
        """Store text as the artifact `to`."""
        self._sink.put(to, lambda copy: copy.write_text(value, encoding="utf-8"))

    def table(self, rows: Sequence[Mapping[str, Any]], to: str) -> None:
        """Store rows as an MLflow table, written whole (MLflow's own writer appends)."""
        columns = list(dict.fromkeys(name for row in rows for name in row))
        data = [[plain_json(row.get(name)) for name in columns] for row in rows]
        self.json({"columns": columns, "data": data}, to)
        entry = {"path": to, "type": "table"}
        if entry not in self.tables:
            self.tables.append(entry)
            self.tags({"mlflow.loggedArtifacts": json.dumps(self.tables)})


class DirectSink:
    """Writes to the store immediately; for additions to runs that have ended."""

    def __init__(self, store: Store, run_id: str) -> None:
        self.store, self.run_id = store, run_id

    def append(self, operation: Operation) -> None:
        """Write values."""
        upload.values(self.store, self.run_id, [operation])

    def put(self, to: str, fill: Callable[[Path], object]) -> None:
        """Store a file; its size is verified."""
        with tempfile.TemporaryDirectory(prefix="minivess-") as temporary:
            path = Path(temporary) / PurePosixPath(to).name
            fill(path)
            upload.files(self.store, self.run_id, [(path, to)])


def attach_run(store: Store, run_id: str) -> Run:
    """Open an existing run to add to it; its status stays, and each call is written immediately.

    Raises:
        StoreError: there is no such run.
    """
    record = store.get(run_id)
    tags = record.tags
    run = Run(
        DirectSink(store, record.run_id),
        record.run_id,
        uid=tags.get(names.UID, ""),
        name=record.name,
        kind=tags.get(names.KIND, ""),
    )
    run._params = dict(record.params)
    run.tables = json.loads(tags.get("mlflow.loggedArtifacts", "[]"))
    return run
