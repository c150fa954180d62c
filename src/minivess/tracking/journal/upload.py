"""Write a run's operations to MLflow; every call is idempotent."""

from __future__ import annotations

import json
import logging
import math
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from minivess import names
from minivess.errors import StoreError, StoreUnreachable
from minivess.tracking.journal.journal import TEXTS, Operation
from minivess.tracking.store import artifacts
from minivess.tracking.store.connection import translate_errors
from minivess.tracking.store.store import REFERENCE, Store

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

METRICS_PER_CALL, NAMES_PER_CALL = 800, 100
ENDED = ("FINISHED", "FAILED", "KILLED")
log = logging.getLogger(__name__)


# --- runs ---------------------------------------------------------------------------------


def run_of(store: Store, opening: Operation) -> str:
    """Return the id of a run: found by its uid, else created with its original start time."""
    tags = store.resolved(opening["tags"])
    found = store.by_uid(tags[names.UID])
    if found:
        return found[0]
    experiment_id = store.experiment_id(
        opening["experiment"], dataset=opening["dataset"], note=opening["note"]
    )
    with translate_errors(f"open the run {opening['name']!r}"):
        made = store.client.create_run(experiment_id, opening["t"], tags, opening["name"])
    return str(made.info.run_id)


def end(store: Store, run_id: str, uid: str, closing: Operation) -> None:
    """Set the final status and its tags, unless the run has ended already."""
    delete_duplicates(store, run_id, uid)
    with translate_errors(f"read run {run_id}"):
        status = store.client.get_run(run_id).info.status
    if status in ENDED:
        if status != closing["status"]:
            log.warning("Run %s is already %s; its status is kept.", run_id, status)
        return
    store.set_tags(run_id, {**closing["tags"], "run_status": closing["status"]})
    with translate_errors(f"end run {run_id}"):
        store.client.set_terminated(run_id, closing["status"], closing["t"])


def delete_duplicates(store: Store, run_id: str, uid: str) -> None:
    """Delete the other runs of a uid: a request that timed out may have created it twice."""
    for other in store.by_uid(uid, deleted=False):
        if other != run_id:
            with translate_errors(f"delete run {other}, made twice"):
                store.client.delete_run(other)


# --- values -------------------------------------------------------------------------------


def values(store: Store, run_id: str, operations: Sequence[Operation]) -> None:
    """Write metrics (in order), params, tags and datasets of several `log` operations."""
    from mlflow.entities import Metric, Param, RunTag

    params: dict[str, str] = {}
    tags: dict[str, str] = {}
    for operation in operations:
        params |= store.resolved(operation.get("params", {}))
        tags |= store.resolved(operation.get("tags", {}))
    queues = iter(_metrics(operations)), iter(params.items()), iter(tags.items())
    while True:
        metrics = [Metric(*one) for one in islice(queues[0], METRICS_PER_CALL)]
        batch = [Param(*one) for one in islice(queues[1], NAMES_PER_CALL)]
        labels = [RunTag(*one) for one in islice(queues[2], NAMES_PER_CALL)]
        if not (metrics or batch or labels):
            break
        with translate_errors(f"write values of run {run_id}"):
            store.client.log_batch(run_id, metrics, batch, labels, synchronous=True)
    described = [_input(operation["dataset"]) for operation in operations if "dataset" in operation]
    if described:
        with translate_errors(f"write the dataset of run {run_id}"):
            store.client.log_inputs(run_id, described)


def _metrics(operations: Sequence[Operation]) -> Iterator[tuple[str, float, int, int]]:
    for operation in operations:
        for name, value in operation.get("metrics", {}).items():
            # JSON has no NaN.
            number = math.nan if value is None else value
            yield name, number, operation["t"], operation["step"]


def _input(values: dict[str, Any]) -> DatasetInput:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    described = Dataset(
        name=values["name"],
        digest=values["digest"],
        source_type="local",
        source=json.dumps({"uri": values["uri"]}),
        profile=json.dumps(values["profile"]),
    )
    return DatasetInput(described, [InputTag("mlflow.data.context", values["context"])])


# --- files --------------------------------------------------------------------------------


def files(store: Store, run_id: str, copies: Sequence[tuple[Path, str]]) -> None:
    """Store each file as the artifact `to`, and compare the stored size.

    Raises:
        StoreUnreachable: an artifact has another size in the store.
    """
    expected: dict[str, dict[str, int]] = defaultdict(dict)
    with tempfile.TemporaryDirectory(prefix="minivess-") as temporary:
        for path, to in copies:
            ready = _resolved(store, path, Path(temporary))
            folder = str(PurePosixPath(to).parent)
            with translate_errors(f"store {to} in run {run_id}"):
                store.client.log_artifact(run_id, str(ready), None if folder == "." else folder)
            expected[folder][to] = ready.stat().st_size
    for folder, sizes in expected.items():
        with translate_errors(f"list the artifacts of run {run_id}"):
            listed = store.client.list_artifacts(run_id, None if folder == "." else folder)
        found = {entry.path: int(entry.file_size or 0) for entry in listed}
        try:
            artifacts.require_sizes(found, sizes, what=f"run {run_id}")
        except StoreError as torn:
            raise StoreUnreachable(torn.problem, remedy=torn.remedy) from torn


def _resolved(store: Store, path: Path, temporary: Path) -> Path:
    """The file, or a copy in which `uid-...` references are replaced by run ids."""
    if path.suffix not in TEXTS:
        return path
    content = path.read_text(encoding="utf-8", errors="surrogateescape")
    if not REFERENCE.search(content):
        return path
    copy = temporary / path.name
    copy.write_text(store.resolve(content), encoding="utf-8", errors="surrogateescape")
    return copy
