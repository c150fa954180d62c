"""All runs as plain rows, for the workspace."""

from __future__ import annotations

from typing import Any

from minivess import names
from minivess.contracts import RunRecord
from minivess.tracking.connection import door
from minivess.tracking.store import Store

Row = dict[str, Any]


def rows(store: Store, since: int | None) -> dict[str, list[Row]]:
    """Rows of the tables runs, params, metrics and volumes.

    `since`, in milliseconds since 1970, leaves out runs that started before; a child has its
    parent's volumes once, in the child.
    """
    records = [r for r in store.search() if since is None or r.start_time >= since]
    return {
        "runs": [_run(record) for record in records],
        "params": [
            {"run_id": record.run_id, "key": key, "value": value}
            for record in records
            for key, value in sorted(record.params.items())
        ],
        "metrics": [row for record in records for row in _metrics(store, record)],
        "volumes": [row for record in records for row in _volumes(store, record)],
    }


def _run(record: RunRecord) -> Row:
    return {
        "run_id": record.run_id,
        "experiment": record.experiment,
        "name": record.name,
        "kind": record.tags.get(names.KIND),
        "status": record.status,
        "parent_run_id": record.tags.get(names.PARENT),
        "start_time": record.start_time,
        "end_time": record.end_time,
        "content_key": record.tags.get(names.KEY),
        "dataset_hash": record.params.get(names.DATASET_HASH),
        "artifact_uri": record.artifact_uri,
    }


def _metrics(store: Store, record: RunRecord) -> list[Row]:
    """Whole histories; of system metrics, which are many and long, the last value."""
    found = []
    for key, last in sorted(record.metrics.items()):
        if key.startswith("system/"):
            found.append({"run_id": record.run_id, "key": key, "value": last})
            continue
        with door(f"read metrics of run {record.run_id}"):
            history = store.client.get_metric_history(record.run_id, key)
        found += [
            {"run_id": record.run_id, "key": key, "value": entry.value, "step": entry.step,
             "time": entry.timestamp}
            for entry in history
        ]  # fmt: skip
    return found


def _volumes(store: Store, record: RunRecord) -> list[Row]:
    if record.status != "FINISHED" or record.tags.get(names.KIND) not in (
        names.CELL,
        names.ANALYSIS,
    ):
        return []
    if names.PER_VOLUME_ARTIFACT not in store.artifacts(record.run_id, "evaluation"):
        return []
    table = store.read_json(record.run_id, names.PER_VOLUME_ARTIFACT)
    return [
        {"name": record.name, **dict(zip(table["columns"], values, strict=True)),
         "run_id": record.run_id}
        for values in table["data"]
    ]  # fmt: skip
