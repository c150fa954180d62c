"""One MLflow run: what is written into it, and how it may end."""

from __future__ import annotations

import json
import logging
import math
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from minivess import names
from minivess.contracts import DatasetProfile
from minivess.errors import StoreError
from minivess.tracking.artifacts import require_sizes
from minivess.tracking.connection import door
from minivess.tracking.store import Store
from minivess.tracking.values import metric, plain, shortened, text

BATCH = 100
SIZE_LIMIT = 100 * 2**20
LARGE = ("checkpoints", "model", "export", "service")
CONTEXTS = {names.PROFILE: "profiling", names.ANALYSIS: "evaluation", names.DEPLOYMENT: "serving"}
log = logging.getLogger(__name__)


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
        short = shortened(name, value)
        if short != text(value) and self._params.get(name) != short:
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
        with door(f"store {to or path.name}/ in run {self.run_id}"):
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
