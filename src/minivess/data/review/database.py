"""The database of review: SQLite that takes new rows and refuses to change or remove any."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

from minivess.home import Home

SCHEMA = """
create table if not exists seen (
    id integer primary key, at text not null, dataset text not null, case_id text not null,
    image text not null, label text not null, image_md5 text not null, label_md5 text not null,
    findings text not null, in_force text not null, present integer not null
);
create table if not exists decisions (
    id integer primary key, at text not null, dataset text not null, case_id text not null,
    image_md5 text not null, label_md5 text not null, verdict text not null,
    role text, file text, file_md5 text, who text not null, why text not null
);
create index if not exists seen_by_case on seen (dataset, case_id, id);
create index if not exists decisions_by_case on decisions (dataset, case_id, id);
"""
GUARD = """
create trigger if not exists {table}_kept_{action} before {action} on {table}
begin select raise(abort, 'what was decided is kept for good'); end;
"""


@contextmanager
def opened(home: Home) -> Iterator[sqlite3.Connection]:
    """The database, made on first use."""
    home.review_db.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(home.review_db, timeout=60, isolation_level=None)) as database:
        database.row_factory = sqlite3.Row
        if not database.execute("select 1 from sqlite_master where name = 'decisions'").fetchone():
            guards = [
                GUARD.format(table=table, action=action)
                for table in ("seen", "decisions")
                for action in ("update", "delete")
            ]
            database.executescript(SCHEMA + "".join(guards))
        yield database


def insert(database: sqlite3.Connection, table: str, row: Mapping[str, Any]) -> None:
    """Add a row."""
    values = {name: value for name, value in row.items() if name != "id"}
    marks = ", ".join(f":{name}" for name in values)
    database.execute(f"insert into {table} ({', '.join(values)}) values ({marks})", values)


def latest(database: sqlite3.Connection, dataset: str) -> list[sqlite3.Row]:
    """Each volume of a dataset as it was seen last."""
    return database.execute(
        "select * from seen where id in "
        "(select max(id) from seen where dataset = ? group by case_id) order by case_id",
        (dataset,),
    ).fetchall()
