"""DuckDB workspace over all runs, for queries that MLflow's page cannot answer.

Tables
    runs         + name, status, parent_run_id, start_time, end_time, content_key, dataset_hash,
                 artifact_uri                     one row for each run
    params, tags + key, value                     all text, as MLflow holds it
    metrics      + key, value, step, time         whole histories where given
    volumes      + name, "case", "group", metric, value
                                                  one row for each volume judged out of fold and
                                                  metric; NULL is undefined
    properties   + "case", sizes, voxels, ...     one row for each volume of a profile
    comparisons  + name, against, difference, ... one row for each pair of an analysis
    faults       + name, "case", fault, x, ...    one row for each break or merge of a champion
    measures     + name, "case", measure, ...     one row for each volume, class and measure of a
                                                  champion's vessels: truth, predicted
    Each begins with run_id, experiment, dataset, kind, so that no mean need mix them.

Views to query: an experiment is often analysed more than once, and folds and analysis evaluate
the same volumes
    latest_analyses, latest_families              rows of runs: of each experiment and dataset the
                                                  analysis, and of each name the training, that
                                                  finished and began last
    latest_metrics, latest_volumes, latest_faults what these analyses hold
    leaderboard                                   means of each family and ensemble, best first
    hard_volumes                                  volumes by mean Dice, with their properties
    fault_counts                                  breaks and merges of each volume, by kind
    what_changed                                  params that differ from the training before
    cost                                          runs, seconds and parameters of each name
    lineage                                       links between runs, towards the data
    trials                                        trials of searches with their settings and metric

An experiment is that of the training, also for its analyses and deployments. Kinds are profile,
family (a training parent), cell (a fold), analysis, deployment. Times are UTC. EXAMPLES holds
queries that work on any workspace.

DuckDB lets one process write and shuts readers out meanwhile, so `refresh` builds the new
file beside the old one and renames it; a reader keeps the file that it opened.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from minivess import files, names
from minivess.errors import StoreError, UsageError

log = logging.getLogger(__name__)

SCHEMA = 5
HERE = Path(__file__).parent
OFFLINE: dict[str, Any] = {"autoinstall_known_extensions": "false"}
ALONE = OFFLINE | {"enable_external_access": "false", "lock_configuration": "true"}
"""A query can read no other file, and can write none."""

WHOSE = ("experiment", "dataset", "kind")
OWN = dict.fromkeys(("run_id", *WHOSE), "VARCHAR")
TABLES: dict[str, dict[str, str]] = {
    table: OWN | columns for table, columns in files.read_json(HERE / "tables.json").items()
}
"""Columns of each table with their types."""
VIEWS = {
    sql.partition("VIEW ")[2].split()[0]: sql
    for sql in (HERE / "views.sql").read_text(encoding="utf-8").strip().split(";\n\n")
}
EXAMPLES = {
    title.removeprefix("-- "): sql
    for example in (HERE / "examples.sql").read_text(encoding="utf-8").strip().split(";\n\n")
    for title, _, sql in [example.partition("\n")]
}
# Tables that are read from the store only for new and changed runs.
HEAVY = ("metrics", "volumes", "properties", "comparisons", "faults", "measures")

Rows = Mapping[str, Any]
"""Table -> rows as mappings, or an Arrow table with some of its columns."""


def refresh(
    path: Path,
    rows: Rows,
    *,
    unchanged: Collection[str] | None = None,
    source: str | None = None,
) -> None:
    """Merge rows into the workspace; a run that is given again replaces its earlier rows.

    Args:
        rows: table -> rows; absent columns are NULL, unknown ones are ignored. Rows of `volumes`
            are long (metric, value) or wide (dice, cldice, ...).
        unchanged: if given, `rows` covers all existing runs: other runs are deleted, and these
            keep their metrics and volumes.
        source: what `source` returns afterwards, to notice an unchanged store.
    """

    def build(temporary: Path) -> None:
        if path.exists() and _usable(path):
            shutil.copyfile(path, temporary)
        _merge(temporary, rows, unchanged, source)

    files.write(path, build)


def source(path: Path) -> str | None:
    """Return the `source` of the last refresh; None if the file is absent or of another release."""
    if not path.exists() or not _usable(path):
        return None
    found = query(path, "SELECT source FROM workspace")[0]["source"]
    return None if found is None else str(found)


def schema() -> str:
    """Return the tables and views with their columns, and example queries."""
    tables = [
        f"{name}\n    {', '.join(f'{column} {kind}' for column, kind in columns.items())}"
        for name, columns in TABLES.items()
    ]
    examples = [f"-- {title}\n{sql}" for title, sql in EXAMPLES.items()]
    text = str(__doc__).partition("Views to query")[2].partition("DuckDB lets")[0]
    return "\n".join(["Tables", *tables, "", f"Views to query{text.rstrip()}", "", *examples])


def query(path: Path, sql: str) -> list[dict[str, Any]]:
    """Run one read-only query; return rows as dicts.

    Raises:
        StoreError: there is no workspace yet.
        UsageError: DuckDB rejects the query; the message lists the tables.
    """
    import duckdb

    if not path.exists():
        raise StoreError(
            f"There is no workspace at {path}.",
            remedy="run `minivess experiment` or `minivess analyse`",
        )
    try:
        with duckdb.connect(str(path), read_only=True, config=ALONE) as connection:
            kinds = [statement.type.name for statement in connection.extract_statements(sql)]
            if len(kinds) != 1 or kinds[0] not in ("SELECT", "EXPLAIN"):
                message = f"{', '.join(kinds) or 'nothing'} was given, and one SELECT is read."
                raise duckdb.InvalidInputException(message)
            answer = connection.execute(sql)
            columns = _distinct([column[0] for column in answer.description or ()])
            return [dict(zip(columns, row, strict=True)) for row in answer.fetchall()]
    except duckdb.Error as error:
        reason = "\n".join(line for line in str(error).splitlines() if line.strip())
        tables = "; ".join(f"{name}({', '.join(columns)})" for name, columns in TABLES.items())
        raise UsageError(
            f"DuckDB rejected the query: {reason}",
            remedy=f'one SELECT over these tables (quote "case" and "group"): {tables}; '
            f"the newest of each experiment alone: {', '.join(VIEWS)}",
        ) from error


def _distinct(names: Sequence[str]) -> list[str]:
    """Make column names unique: `run_id` of two tables becomes run_id and run_id_2."""
    numbers = [names[: place + 1].count(name) for place, name in enumerate(names)]
    return [f"{name}_{n}" if n > 1 else name for name, n in zip(names, numbers, strict=True)]


def known(path: Path) -> dict[str, int]:
    """Return ended runs in the workspace: id -> end time (ms since 1970)."""
    if not path.exists() or not _usable(path):
        return {}
    sql = "SELECT run_id, epoch_ms(end_time) AS moment FROM runs WHERE end_time IS NOT NULL"
    return {row["run_id"]: row["moment"] for row in query(path, sql)}


def _usable(path: Path) -> bool:
    """Whether the file is a workspace of this schema."""
    try:
        return bool(query(path, "SELECT version FROM workspace")[0]["version"] == SCHEMA)
    except UsageError:
        log.warning("%s is of another release; it is rebuilt", path)
        return False


def _merge(path: Path, rows: Rows, unchanged: Collection[str] | None, source: str | None) -> None:
    import duckdb

    with duckdb.connect(str(path), config=OFFLINE) as connection:
        for table, columns in TABLES.items():
            fields = ", ".join(f'"{name}" {kind}' for name, kind in columns.items())
            unique = ", PRIMARY KEY (run_id)" if table == "runs" else ""
            connection.execute(f"CREATE TABLE IF NOT EXISTS {table} ({fields}{unique})")
        connection.execute(
            "CREATE OR REPLACE TABLE workspace AS SELECT ? AS version, ?::VARCHAR AS source",
            [SCHEMA, source],
        )
        incoming = {table: _arrow(rows.get(table, ()), table) for table in TABLES}
        given = {table: set(these["run_id"].to_pylist()) for table, these in incoming.items()}
        kept = given["runs"] & set(unchanged or ()) - set().union(*(given[t] for t in HEAVY))
        for table, these in incoming.items():
            if unchanged is None:
                _drop(connection, table, "IN", set().union(*given.values()))
            else:
                _drop(connection, table, "NOT IN", kept if table in HEAVY else ())
            connection.register("incoming", these)
            connection.execute(f"INSERT INTO {table} SELECT * FROM incoming")
            connection.unregister("incoming")
        for table in set(TABLES) - {"runs"}:
            _name(connection, table)
        for view in VIEWS.values():
            connection.execute(view)
        connection.execute("CHECKPOINT")


def _name(connection: Any, table: str) -> None:
    """Copy experiment, dataset and kind to each row; an experiment may have been renamed."""
    here, there = (", ".join(f"{side}.{name}" for name in WHOSE) for side in (table, "runs"))
    connection.execute(
        f"UPDATE {table} SET {', '.join(f'{name} = runs.{name}' for name in WHOSE)} FROM runs "
        f"WHERE {table}.run_id = runs.run_id AND ({here}) IS DISTINCT FROM ({there})"
    )


def _drop(connection: Any, table: str, which: str, run_ids: Collection[str]) -> None:
    connection.execute(
        f"DELETE FROM {table} WHERE run_id {which} (SELECT unnest(?::VARCHAR[]))", [sorted(run_ids)]
    )


def _arrow(rows: Any, table: str) -> Any:
    import pyarrow as pa

    kinds = {
        "DOUBLE": pa.float64(),
        "BIGINT": pa.int64(),
        "TIMESTAMP_MS": pa.timestamp("ms"),
    }
    schema = {name: kinds.get(kind, pa.string()) for name, kind in TABLES[table].items()}
    if isinstance(rows, pa.Table):
        none = pa.nulls(len(rows))
        return pa.table({
            name: (rows[name] if name in rows.column_names else none).cast(kind)
            for name, kind in schema.items()
        })  # fmt: skip
    listed = list(_long(rows) if table == "volumes" else rows)
    return pa.Table.from_pylist(listed, schema=pa.schema(schema))


def _long(rows: Iterable[Mapping[str, Any]]) -> Iterable[dict[str, Any]]:
    """Yield one row per metric, from long or wide rows."""
    for row in rows:
        who = {name: row.get(name) for name in ("run_id", "name", "case", "group")}
        if "metric" in row:
            yield {**who, "metric": row["metric"], "value": row.get("value")}
            continue
        for name, value in row.items():
            if names.stem(name) in (*names.METRICS, *names.COUNTS):
                yield {**who, "metric": name, "value": value}
