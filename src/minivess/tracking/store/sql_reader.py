"""Read many runs at once, with SQL on MLflow's tables where the store is a database.

MLflow's client makes a request for each run and metric, which takes minutes for thousands of runs.
A server is read through the client; both ways give the same values.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

from minivess.contracts import RunRecord
from minivess.tracking.store.connection import database_file, redact, translate_errors
from minivess.tracking.store.store import Store

if TYPE_CHECKING:
    import pyarrow as pa
    from sqlalchemy import Connection

DATABASES = ("sqlite:", "postgresql")
CHUNK = 100_000
FEW = 500
RUNS = """
    SELECT r.run_uuid AS run_id, coalesce(r.name, '') AS name, r.experiment_id AS experiment,
        r.status, r.start_time, r.end_time, r.artifact_uri
    FROM runs r JOIN experiments e ON e.experiment_id = r.experiment_id
    WHERE r.lifecycle_stage = 'active' AND e.lifecycle_stage = 'active'
    ORDER BY r.start_time DESC, r.run_uuid"""
OF_RUN = ("run_id", "name", "experiment", "status", "start_time", "end_time", "artifact_uri")
LAST_METRICS = """
    SELECT run_uuid, key, value FROM latest_metrics WHERE NOT is_nan AND abs(value) < 1e308"""


@contextmanager
def database(store: Store) -> Iterator[Connection]:
    """Open a connection to the store's database, in one transaction.

    Raises:
        StoreUnreachable: the database does not answer.
    """
    import sqlalchemy as sa

    engine = sa.create_engine(store.uri, poolclass=sa.NullPool)
    with translate_errors(f"read the tables of {redact(store.uri)}"), engine.begin() as connection:
        yield connection


def is_database(store: Store) -> bool:
    """Whether the store is a database; the tables of a server cannot be read."""
    return store.uri.startswith(DATABASES)


def version(store: Store) -> str | None:
    """Return a text that changes with each write to a SQLite store; None for other stores."""
    if not store.uri.startswith("sqlite:///"):
        return None
    path = database_file(store.uri)
    parts = [part for part in (path, path.with_name(f"{path.name}-wal")) if part.exists()]
    return " ".join(f"{part.stat().st_mtime_ns} {part.stat().st_size}" for part in parts)


def records(store: Store) -> list[RunRecord]:
    """Return every run that is not deleted, newest first, as `Store.search` does."""
    if not is_database(store):
        return store.search()
    with database(store) as connection:
        texts = {
            table: _by_run(_read(connection, f"SELECT run_uuid, key, value FROM {table}"))
            for table in ("params", "tags")
        }
        numbers = _by_run(_read(connection, LAST_METRICS))
        return [
            RunRecord(
                **dict(zip(OF_RUN, row, strict=True))
                | {"experiment": store.experiment_name(str(row[2]))},
                params=texts["params"].get(row[0], {}),
                tags=texts["tags"].get(row[0], {}),
                metrics=numbers.get(row[0], {}),
            )
            for row in _read(connection, RUNS)
        ]


def _by_run(rows: Iterable[Sequence[Any]]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = defaultdict(dict)
    for run_id, key, value in rows:
        found[run_id][key] = value
    return found


def histories(store: Store, run_ids: Collection[str]) -> pa.Table:
    """Return the metric histories of runs: run_id, key, value, step, time (ms since 1970).

    Of system metrics, which are many and long, only the last value is read. An undefined value is
    null.
    """
    import pyarrow as pa

    schema = pa.schema(
        {"run_id": pa.string(), "key": pa.string(), "value": pa.float64(), "step": pa.int64(),
         "time": pa.int64()}
    )  # fmt: skip
    rows = (_from_tables if is_database(store) else _from_client)(store, run_ids)
    parts = [schema.empty_table()]
    while some := list(islice(rows, CHUNK)):
        columns = dict(zip(schema.names, zip(*some, strict=True), strict=True))
        parts.append(pa.Table.from_pydict(columns, schema=schema))
    return pa.concat_tables(parts)


def _from_tables(store: Store, run_ids: Collection[str]) -> Iterator[Sequence[Any]]:
    wanted = set(run_ids)
    among = ", ".join(f"'{run_id}'" for run_id in sorted(wanted))
    # Above FEW runs, a scan of the whole table is faster than the index.
    where = f" AND run_uuid IN ({among})" if len(wanted) <= FEW else ""
    with database(store) as connection:
        for table, which in (("metrics", "NOT LIKE"), ("latest_metrics", "LIKE")):
            rows = _read(
                connection,
                "SELECT run_uuid, key, CASE WHEN is_nan THEN NULL ELSE value END, step, timestamp"
                f" FROM {table} WHERE key {which} 'system/%'{where}",
            )
            yield from (row for row in rows if row[0] in wanted)


def _from_client(store: Store, run_ids: Collection[str]) -> Iterator[Sequence[Any]]:
    for run_id in sorted(run_ids):
        with translate_errors(f"read metrics of run {run_id}"):
            for key in store.client.get_run(run_id).data.metrics:
                entries = store.client.get_metric_history(run_id, key)
                if key.startswith("system/"):
                    entries = sorted(entries, key=lambda e: (e.step, e.timestamp, e.value))[-1:]
                for entry in entries:
                    value = entry.value if entry.value == entry.value else None
                    yield run_id, key, value, entry.step, entry.timestamp


def _read(connection: Connection, sql: str) -> Iterator[tuple[Any, ...]]:
    """The rows as the driver gives them; SQLAlchemy's own take half of the time."""
    import sqlalchemy as sa

    cursor = connection.execute(sa.text(sql)).cursor
    assert cursor is not None
    while rows := cursor.fetchmany(CHUNK):
        yield from rows
