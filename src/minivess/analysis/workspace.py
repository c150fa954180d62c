"""One DuckDB file over all runs, for questions that MLflow's page cannot answer.

Tables
    runs     run_id, experiment, name, kind, status, parent_run_id, start_time, end_time,
             content_key, dataset_hash, artifact_uri            one row for each run
    params   run_id, key, value                                 all text, as MLflow holds it
    metrics  run_id, key, value, step, time                     whole histories where given
    volumes  run_id, name, "case", "group", metric, value       one row for each judged volume
                                                                and metric; NULL is undefined

Kinds are profile, family (a training parent), cell (a fold), analysis, deployment.
Times are UTC. EXAMPLES holds queries that work on any workspace.

DuckDB lets one process write and shuts readers out meanwhile, so `refresh` builds the new
file beside the old one and renames it; a reader keeps the file that it opened.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from minivess import files, names
from minivess.errors import StoreError, UsageError

log = logging.getLogger(__name__)

SCHEMA = 1
OFFLINE: dict[str, Any] = {"autoinstall_known_extensions": "false"}
TABLES: dict[str, dict[str, str]] = {
    "runs": {
        "run_id": "VARCHAR PRIMARY KEY",
        "experiment": "VARCHAR",
        "name": "VARCHAR",
        "kind": "VARCHAR",
        "status": "VARCHAR",
        "parent_run_id": "VARCHAR",
        "start_time": "TIMESTAMP_MS",
        "end_time": "TIMESTAMP_MS",
        "content_key": "VARCHAR",
        "dataset_hash": "VARCHAR",
        "artifact_uri": "VARCHAR",
    },
    "params": {"run_id": "VARCHAR", "key": "VARCHAR", "value": "VARCHAR"},
    "metrics": {
        "run_id": "VARCHAR",
        "key": "VARCHAR",
        "value": "DOUBLE",
        "step": "BIGINT",
        "time": "TIMESTAMP_MS",
    },
    "volumes": {
        "run_id": "VARCHAR",
        "name": "VARCHAR",
        "case": "VARCHAR",
        "group": "VARCHAR",
        "metric": "VARCHAR",
        "value": "DOUBLE",
    },
}

EXAMPLES = {
    "the last runs": """
        SELECT experiment, name, kind, status, start_time FROM runs
        ORDER BY start_time DESC LIMIT 20""",
    "families by their mean over volumes": """
        SELECT v.name, metric, avg(value) AS mean, count(value) AS n
        FROM volumes v JOIN runs r USING (run_id) WHERE r.kind = 'analysis'
        GROUP BY ALL ORDER BY metric, mean DESC""",
    "the volumes that every family finds hard": """
        SELECT "case", avg(value) AS mean_dice
        FROM volumes JOIN runs USING (run_id) WHERE metric = 'dice' AND kind = 'analysis'
        GROUP BY ALL ORDER BY mean_dice LIMIT 10""",
    "what differs between trainings": """
        SELECT key, list(DISTINCT value) AS found FROM params JOIN runs USING (run_id)
        WHERE kind = 'family' GROUP BY key HAVING count(DISTINCT value) > 1 ORDER BY key""",
    "how long each kind of run takes": """
        SELECT kind, count(*) AS n, avg(date_diff('second', start_time, end_time)) AS seconds
        FROM runs WHERE end_time IS NOT NULL GROUP BY kind ORDER BY kind""",
}

Rows = Mapping[str, Sequence[Mapping[str, Any]]]


def refresh(path: Path, rows: Rows) -> None:
    """Merge rows into the workspace; runs that are given again replace what was known of them.

    `rows` maps a table's name to rows; absent columns are NULL, unknown ones are left out.
    Rows of `volumes` may be long (metric, value) or wide (dice, cldice, ...).
    """

    def build(temporary: Path) -> None:
        if path.exists() and _usable(path):
            shutil.copyfile(path, temporary)
        _merge(temporary, rows)

    files.write(path, build)


def query(path: Path, sql: str) -> list[dict[str, Any]]:
    """Run one query, read-only; rows as dicts.

    Raises:
        StoreError: there is no workspace yet.
        UsageError: DuckDB refuses the query; the tables are named.
    """
    import duckdb

    if not path.exists():
        raise StoreError(
            f"There is no workspace at {path}.", remedy="run `just experiment` or `just analyse`"
        )
    try:
        with duckdb.connect(str(path), read_only=True, config=OFFLINE) as connection:
            answer = connection.execute(sql)
            columns = [column[0] for column in answer.description or ()]
            return [dict(zip(columns, row, strict=True)) for row in answer.fetchall()]
    except duckdb.Error as error:
        tables = "; ".join(f"{name}({', '.join(columns)})" for name, columns in TABLES.items())
        raise UsageError(
            f"DuckDB refuses the query: {error}",
            remedy=f'one SELECT over these tables (quote "case" and "group"): {tables}',
        ) from error


def newest(path: Path) -> int | None:
    """Start of the newest run in the workspace, milliseconds since 1970; None: fill it whole.

    Runs that had not ended when they were read are still to be read again, so the oldest of
    those counts where there is one.
    """
    if not path.exists() or not _usable(path):
        return None
    sql = """SELECT epoch_ms(coalesce(min(start_time) FILTER (WHERE end_time IS NULL),
             max(start_time))) AS moment FROM runs"""
    moment: int | None = query(path, sql)[0]["moment"]
    return moment


def _usable(path: Path) -> bool:
    """Whether the file is a workspace of this schema; an older one is built anew."""
    try:
        return bool(query(path, "SELECT version FROM workspace")[0]["version"] == SCHEMA)
    except UsageError:
        log.warning("%s is of another release; it is built anew", path)
        return False


def _merge(path: Path, rows: Rows) -> None:
    import duckdb

    with duckdb.connect(str(path), config=OFFLINE) as connection:
        for table, columns in TABLES.items():
            fields = ", ".join(f'"{name}" {kind}' for name, kind in columns.items())
            connection.execute(f"CREATE TABLE IF NOT EXISTS {table} ({fields})")
        connection.execute(f"CREATE OR REPLACE TABLE workspace AS SELECT {SCHEMA} AS version")
        for table in TABLES:
            _replace(connection, table, rows)
        connection.execute("CHECKPOINT")


def _replace(connection: Any, table: str, rows: Rows) -> None:
    """Drop what the table knows of the runs given, then insert their rows by Arrow."""
    known = {str(row["run_id"]) for one in TABLES for row in rows.get(one, ())}
    connection.execute(
        f"DELETE FROM {table} WHERE run_id IN (SELECT unnest(?::VARCHAR[]))",
        [sorted(known)],
    )
    incoming = rows.get(table, ())
    if table == "volumes":
        incoming = list(_long(incoming))
    if incoming:
        connection.register("incoming", _arrow(incoming, table))
        connection.execute(f"INSERT INTO {table} SELECT * FROM incoming")
        connection.unregister("incoming")


def _arrow(rows: Sequence[Mapping[str, Any]], table: str) -> Any:
    import pyarrow as pa

    kinds = {
        "DOUBLE": pa.float64(),
        "BIGINT": pa.int64(),
        "TIMESTAMP_MS": pa.timestamp("ms"),
    }
    columns = TABLES[table]
    return pa.table(
        {
            name: pa.array([row.get(name) for row in rows], kinds.get(kind.split()[0], pa.string()))
            for name, kind in columns.items()
        }
    )


def _long(rows: Iterable[Mapping[str, Any]]) -> Iterable[dict[str, Any]]:
    """One row for each metric, from rows of either form."""
    for row in rows:
        who = {name: row.get(name) for name in ("run_id", "name", "case", "group")}
        if "metric" in row:
            yield {**who, "metric": row["metric"], "value": row.get("value")}
            continue
        for name, value in row.items():
            if name.partition("_class")[0] in names.METRICS:
                yield {**who, "metric": name, "value": value}
