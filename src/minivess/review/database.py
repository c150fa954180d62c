"""The database of review: SQLite tables to which rows are only added; schema.sql defines them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from minivess.home import Home

SCHEMA = Path(__file__).with_name("schema.sql")
LATEST = (
    "select * from seen where id in "
    "(select max(id) from seen where dataset = ? group by case_id) order by case_id"
)
"""Each volume of a dataset as it was seen last."""


def select(home: Home, query: str, *values: str) -> list[sqlite3.Row]:
    """Return the rows of a query; none where there is no database yet."""
    if not home.review_db.exists():
        return []
    with _opened(home) as database:
        return database.execute(query, values).fetchall()


@contextmanager
def transaction(home: Home) -> Iterator[sqlite3.Connection]:
    """Open the database, made on first use, to add rows: all of them or none."""
    with _opened(home) as database:
        database.execute("begin immediate")
        yield database
        database.commit()


def insert(database: sqlite3.Connection, table: str, row: Mapping[str, Any]) -> None:
    """Add a row."""
    values = {name: value for name, value in row.items() if name != "id"}
    marks = ", ".join(f":{name}" for name in values)
    database.execute(f"insert into {table} ({', '.join(values)}) values ({marks})", values)


@contextmanager
def _opened(home: Home) -> Iterator[sqlite3.Connection]:
    home.review_db.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(home.review_db, timeout=60, isolation_level=None)) as database:
        database.row_factory = sqlite3.Row
        if not database.execute("select 1 from sqlite_master where name = 'decisions'").fetchone():
            database.executescript(SCHEMA.read_text(encoding="utf-8"))
        yield database
