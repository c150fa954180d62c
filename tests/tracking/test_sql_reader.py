"""MLflow's own tables, which are read and changed without its client."""

from __future__ import annotations

import sqlalchemy as sa

from minivess.tracking.store import sql_reader
from minivess.tracking.store.store import Store
from minivess.upkeep import rebase

READ = {
    "experiments": {"experiment_id", "name", "lifecycle_stage"},
    "runs": {
        "run_uuid", "name", "experiment_id", "status", "start_time", "end_time", "lifecycle_stage",
    },
    "params": {"run_uuid", "key", "value"},
    "tags": {"run_uuid", "key", "value"},
    "metrics": {"run_uuid", "key", "value", "is_nan", "step", "timestamp"},
    "latest_metrics": {"run_uuid", "key", "value", "is_nan", "step", "timestamp"},
}  # fmt: skip
SERVER_ONLY = "workspaces"
"""A table of MLflow servers with several tenants."""


def columns(store: Store) -> dict[str, set[str]]:
    """Table -> its columns."""
    with sql_reader.database(store) as connection:
        inspector = sa.inspect(connection)
        return {
            table: {column["name"] for column in inspector.get_columns(table)}
            for table in inspector.get_table_names()
        }


def test_mlflow_has_the_tables_and_columns_that_are_read_and_rewritten(store: Store) -> None:
    found = columns(store)
    for table, names in [*READ.items(), *rebase.COLUMNS.items()]:
        assert set(names) <= found[table]


def test_every_column_with_an_address_of_artifacts_is_rewritten_after_a_move(store: Store) -> None:
    addresses = {
        (table, name)
        for table, names in columns(store).items()
        for name in names
        if table != SERVER_ONLY and ("artifact" in name or "location" in name)
    }
    assert addresses <= {(table, name) for table, names in rebase.COLUMNS.items() for name in names}
