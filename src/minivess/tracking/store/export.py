"""Export all runs as rows for the DuckDB workspace."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from minivess import names
from minivess.contracts import RunRecord
from minivess.tracking.store import sql_reader
from minivess.tracking.store.run_files import artifact_names
from minivess.tracking.store.store import Store

Row = dict[str, Any]

NOTHING: Mapping[str, int] = MappingProxyType({})
JUDGED = (names.CELL, names.ANALYSIS)


def export_rows(store: Store, known: Mapping[str, int] = NOTHING) -> dict[str, Any]:
    """Return the rows of the tables runs, params, metrics (an Arrow table) and volumes.

    Args:
        known: ended runs that the reader has already (id -> end time in milliseconds); their
            metrics and volumes are left out, their runs and params are not.
    """
    records = sql_reader.records(store)
    fresh = [r for r in records if r.end_time is None or known.get(r.run_id) != r.end_time]
    return {
        "runs": [_run(record) for record in records],
        "params": [
            {"run_id": record.run_id, "key": key, "value": value}
            for record in records
            for key, value in sorted(record.params.items())
        ],
        "metrics": sql_reader.histories(store, {record.run_id for record in fresh}),
        "volumes": [row for record in fresh for row in _volumes(store, record)],
    }


def _run(record: RunRecord) -> Row:
    return {
        "run_id": record.run_id,
        "experiment": record.params.get(names.UPSTREAM_EXPERIMENT, record.experiment),
        "dataset": record.params.get(names.DATASET_NAME),
        "kind": record.tags.get(names.KIND),
        "name": record.name,
        "status": record.status,
        "parent_run_id": record.tags.get(names.PARENT),
        "start_time": record.start_time,
        "end_time": record.end_time,
        "content_key": record.tags.get(names.KEY),
        "dataset_hash": record.params.get(names.DATASET_HASH),
        "artifact_uri": record.artifact_uri,
    }


def _volumes(store: Store, record: RunRecord) -> list[Row]:
    """One row per evaluated volume; volumes of a parent run are read from its children."""
    if record.status != "FINISHED" or record.tags.get(names.KIND) not in JUDGED:
        return []
    if names.PER_VOLUME_ARTIFACT not in artifact_names(store, record, "evaluation"):
        return []
    table = store.read_json(record.run_id, names.PER_VOLUME_ARTIFACT)
    return [
        {"name": record.name, **dict(zip(table["columns"], values, strict=True)),
         "run_id": record.run_id}
        for values in table["data"]
    ]  # fmt: skip
