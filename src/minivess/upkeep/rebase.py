"""Rewrite artifact addresses after a move: MLflow stores absolute ones in several tables.

`old` and `new` are folders or addresses such as s3://bucket/runs. Both spellings of a folder that
MLflow uses are found: the plain path, and file:// with spaces as %20.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from minivess.errors import StoreError
from minivess.tracking.store import sql_reader
from minivess.tracking.store.store import Store

if TYPE_CHECKING:
    from sqlalchemy import Connection

COLUMNS = {
    "experiments": ("artifact_location",),
    "runs": ("artifact_uri",),
    "logged_models": ("artifact_location",),
    "model_versions": ("source", "storage_location"),
}


class Move(NamedTuple):
    """Number of addresses in one column that begin with the old root."""

    column: str
    addresses: int


def look(store: Store, old: str, new: str) -> list[Move]:
    """Count the addresses that would change; changes nothing."""
    return _each(store, old, new, write=False)


def apply(store: Store, old: str, new: str) -> list[Move]:
    """Rewrite the addresses, all or none."""
    return _each(store, old, new, write=True)


def _each(store: Store, old: str, new: str, *, write: bool) -> list[Move]:
    if not sql_reader.is_database(store):
        raise StoreError(
            f"{store.uri} is a server; addresses are kept in its database.",
            remedy="on the server's machine: MLFLOW_TRACKING_URI=<the address of its database> "
            f"minivess rebase {old} {new} --apply",
        )
    with sql_reader.database(store) as connection:
        moves = [
            Move(f"{table}.{column}", _column(connection, (table, column), pair, write=write))
            for table, columns in COLUMNS.items()
            for column in columns
            for pair in spellings(old, new)
        ]
    return [move for move in moves if move.addresses]


def spellings(old: str, new: str) -> list[tuple[str, str]]:
    """Return (old, new) prefixes in each spelling that the store may hold."""
    if urlsplit(old).scheme not in ("", "file"):
        return [(old.rstrip("/"), new.rstrip("/"))]
    before, after = Path(old), Path(new)
    return [(str(before), str(after)), (before.as_uri(), after.as_uri())]


def _column(
    connection: Connection, where: tuple[str, str], pair: tuple[str, str], *, write: bool
) -> int:
    import sqlalchemy as sa

    table, column = where
    place: sa.ColumnClause[str] = sa.column(column)
    old, new = pair
    # Only whole folder names match: /data/outputs must not match /data/outputs2.
    inside = sa.or_(place == old, sa.func.substr(place, 1, len(old) + 1) == f"{old}/")
    if not write:
        counted = sa.select(sa.func.count()).select_from(sa.table(table, place)).where(inside)
        return int(connection.execute(counted).scalar_one())
    moved = sa.literal(new).concat(sa.func.substr(place, len(old) + 1))
    change = sa.update(sa.table(table, place)).where(inside).values({column: moved})
    return int(connection.execute(change).rowcount)
