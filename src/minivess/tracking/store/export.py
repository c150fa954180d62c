"""Export all runs as rows for the DuckDB workspace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from minivess import names
from minivess.contracts import RunRecord
from minivess.tracking.store import sql_reader
from minivess.tracking.store.run_files import artifact_names
from minivess.tracking.store.store import Store

if TYPE_CHECKING:
    import pyarrow as pa

Row = dict[str, Any]

NOTHING: Mapping[str, int] = MappingProxyType({})
JUDGED = (names.CELL, names.ANALYSIS)
PROPERTIES = (
    "case", "group", "unit", "intensity_mean", "intensity_std", "foreground_ratio", "components",
)  # fmt: skip


def export_rows(store: Store, known: Mapping[str, int] = NOTHING) -> dict[str, Any]:
    """Return the rows of the workspace's tables; metrics, params and tags are Arrow tables.

    Args:
        known: ended runs that the reader has already (id -> end time in milliseconds); their
            metrics, volumes, properties and comparisons are left out, other rows are not.
    """
    records = sql_reader.records(store)
    fresh = [r for r in records if r.end_time is None or known.get(r.run_id) != r.end_time]
    return {
        "runs": [_run(record) for record in records],
        "params": _texts(records, "params"),
        "tags": _texts(records, "tags"),
        "metrics": sql_reader.histories(store, {record.run_id for record in fresh}),
        "volumes": [row for record in fresh for row in _volumes(store, record)],
        "properties": [row for record in fresh for row in _properties(store, record)],
        "comparisons": _of_analyses(store, fresh, names.COMPARISONS_ARTIFACT),
        "faults": _of_analyses(store, fresh, names.FAULTS_ARTIFACT),
        "measures": _of_analyses(store, fresh, names.MEASURES_ARTIFACT),
    }


def _of_analyses(store: Store, records: Sequence[RunRecord], artifact: str) -> list[Row]:
    """The rows of a table that analyses may hold."""
    analyses = [one for one in records if one.tags.get(names.KIND) == names.ANALYSIS]
    return [row for record in analyses for row in _table(store, record, artifact)]


def _texts(records: Sequence[RunRecord], sort: Literal["params", "tags"]) -> pa.Table:
    """Their texts by columns: dicts of a hundred thousand rows take seconds."""
    import pyarrow as pa

    held: list[tuple[str, Mapping[str, str]]] = [
        (one.run_id, getattr(one, sort)) for one in records
    ]
    columns = {
        "run_id": [run_id for run_id, texts in held for _ in texts],
        "key": [key for _, texts in held for key in texts],
        "value": [value for _, texts in held for value in texts.values()],
    }
    return pa.table(columns, schema=pa.schema(dict.fromkeys(columns, pa.string())))


def _properties(store: Store, record: RunRecord) -> list[Row]:
    """One row for each volume of a profile."""
    if record.status != "FINISHED" or record.tags.get(names.KIND) != names.PROFILE:
        return []
    if names.PROFILE_ARTIFACT not in artifact_names(store, record, "dataset"):
        return []  # `audit` names runs that lack what they should hold
    profile = store.read_json(record.run_id, names.PROFILE_ARTIFACT)
    return [
        {
            **{name: one.get(name) for name in PROPERTIES},
            **{f"size_{axis}": size for axis, size in zip("xyz", one["shape"], strict=True)},
            **{f"voxel_{a}": size for a, size in zip("xyz", one["voxel_spacing"], strict=True)},
            "run_id": record.run_id,
        }
        for one in profile["volumes"]
    ]


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


def _volumes(store: Store, one: RunRecord) -> list[Row]:
    """One row per evaluated volume; volumes of a parent run are read from its children."""
    if one.status != "FINISHED" or one.tags.get(names.KIND) not in JUDGED:
        return []
    return [{"name": one.name, **row} for row in _table(store, one, names.PER_VOLUME_ARTIFACT)]


def _table(store: Store, record: RunRecord, artifact: str) -> list[Row]:
    """The rows of a table that a finished run may hold."""
    folder = str(Path(artifact).parent)
    if record.status != "FINISHED" or artifact not in artifact_names(store, record, folder):
        return []
    table = store.read_json(record.run_id, artifact)
    return [
        {**dict(zip(table["columns"], values, strict=True)), "run_id": record.run_id}
        for values in table["data"]
    ]
