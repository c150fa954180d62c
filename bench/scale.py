"""A store of thousands of runs: status, sql, audit against their limits: [--runs 5000].

20 params, 10 metrics, 100 steps each by default, written straight into a fresh SQLite store. Times
stand as ratios to reading the bare rows with sqlite3, which no command can be quicker than.
"""

from __future__ import annotations

import argparse
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

from minivess import names
from minivess.analysis import workspace
from minivess.config import TrackingConfig
from minivess.home import open_home
from minivess.tracking.store import export
from minivess.tracking.store.store import Store, open_store
from minivess.upkeep import audit, status

FAMILY = 6  # a parent and its five folds
START = 1_700_000_000_000
TAGS = 25
# Seconds that a person waits without wondering what went wrong.
LIMITS_S = {
    "status": 10, "sql, first time": 120, "sql, nothing new": 10, "sql, ten new runs": 15,
    "audit": 60,
}  # fmt: skip


def fill(store: Store, sizes: Mapping[str, int], first: int = 0) -> None:
    """Families of nested runs as training leaves them, without artifacts."""
    experiment = int(store.experiment_id("scale", dataset="d", note="n"))
    runs = range(first, first + sizes["runs"])
    params, metrics, steps = (range(sizes[name]) for name in ("params", "metrics", "steps"))
    last = len(steps) - 1
    with closing(sqlite3.connect(store.home.database)) as database, database:
        for pragma in ("synchronous=OFF", "journal_mode=MEMORY", "cache_size=-400000"):
            database.execute(f"PRAGMA {pragma}")
        # In the order of the primary keys, and indexed afterwards: else it takes minutes.
        indexes = (
            dict(
                database.execute(
                    "SELECT name, sql FROM sqlite_master WHERE name LIKE 'index_metrics_run_uuid%'"
                ).fetchall()
            )
            if not first
            else {}
        )
        for name in indexes:
            database.execute(f"DROP INDEX {name}")
        insert(database, "runs", (run_row(i, experiment, store.home.artifacts) for i in runs))
        insert(
            database, "params", ((f"param_{k}", f"{i}-{k}", uid(i)) for k in params for i in runs)
        )
        insert(database, "tags", (row for i in runs for row in tag_rows(i)))
        insert(
            database,
            "latest_metrics",
            (
                (f"metric_{k}", value(i, k, last), START + last, last, 0, uid(i))
                for k in metrics
                for i in runs
            ),
        )
        insert(
            database,
            "metrics",
            (
                (f"metric_{k}", value(i, k, step), START + step, uid(i), step, 0)
                for k in metrics
                for step in steps
                for i in runs
            ),
        )
        for sql in indexes.values():
            database.execute(sql)


def insert(database: sqlite3.Connection, table: str, made: Iterator[tuple[Any, ...]]) -> None:
    """Rows in the order of the table's columns."""
    while chunk := list(islice(made, 50_000)):
        holes = ",".join("?" * len(chunk[0]))
        database.executemany(f"INSERT INTO {table} VALUES ({holes})", chunk)


def uid(i: int) -> str:
    """A run id."""
    return f"{i:032x}"


def value(i: int, k: int, step: int) -> float:
    """Any number that differs."""
    return ((i * 31 + k * 7 + step) % 1000) / 1000


def run_row(i: int, experiment: int, root: Path) -> tuple[Any, ...]:
    """One finished run; it lasted less than a second."""
    return (
        uid(i), f"dynunet_dice_ce_{i}", "LOCAL", "", "", "t", "FINISHED", START + i * 1000,
        START + i * 1000 + 900, "", "active", f"{root}/scale/{uid(i)}/artifacts", experiment,
        None,
    )  # fmt: skip


def tag_rows(i: int) -> list[tuple[str, str, str]]:
    """Who a run is, and as many other tags as ours have."""
    parent = i - i % FAMILY
    kind = names.FAMILY if i == parent else names.CELL
    known = {names.KIND: kind, names.KEY: uid(i), names.UID: uid(i), "run_status": "FINISHED"}
    if i != parent:
        known[names.PARENT] = uid(parent)
    known |= {f"tag_{k}": str(k) for k in range(TAGS - len(known))}
    return [(key, text, uid(i)) for key, text in known.items()]


def bare(store: Store) -> int:
    """Every row of the store, read and dropped."""
    with closing(sqlite3.connect(store.home.database)) as database:
        return sum(
            1
            for table in ("runs", "params", "tags", "latest_metrics", "metrics")
            for _ in database.execute(f"SELECT * FROM {table}")
        )


def refresh(store: Store) -> None:
    """What `minivess sql` does before it asks."""
    path = store.home.workspace
    known = workspace.known(path)
    workspace.refresh(path, export.export_rows(store, known), unchanged=known)


def clocked(what: Callable[[], object]) -> float:
    """Seconds of one call."""
    begun = time.perf_counter()
    what()
    return time.perf_counter() - begun


def main() -> None:
    """Fill, measure, print."""
    asked = argparse.ArgumentParser(description=__doc__)
    for name, default in {"runs": 5000, "params": 20, "metrics": 10, "steps": 100}.items():
        asked.add_argument(f"--{name}", type=int, default=default)
    sizes = vars(asked.parse_args())
    with tempfile.TemporaryDirectory(prefix="minivess-scale-") as folder:
        store = open_store(open_home(Path(folder)), TrackingConfig())
        fill(store, sizes)
        print(f"{sizes} in {store.home.database.stat().st_size / 2**20:.0f} MB")
        measure(store, sizes)


def measure(store: Store, sizes: Mapping[str, int]) -> None:
    """Each command's work once, in the order in which a user would meet it."""
    unit = clocked(lambda: bare(store))
    print(f"{'bare rows':<20} {unit:7.2f} s")
    steps: dict[str, Callable[[], object]] = {
        "status": lambda: status.look(store),
        "sql, first time": lambda: refresh(store),
        "sql, nothing new": lambda: refresh(store),
        "sql, ten new runs": lambda: refresh(store),
        "audit": lambda: audit.audit(store),
    }
    for name, step in steps.items():
        if name == "sql, ten new runs":
            fill(store, {**sizes, "runs": 10}, first=sizes["runs"])
        took, limit = clocked(step), LIMITS_S[name]
        verdict = "ok" if took <= limit else "TOO SLOW"
        print(f"{name:<20} {took:7.2f} s {took / unit:6.2f} x bare  limit {limit:>3} s  {verdict}")


if __name__ == "__main__":
    main()
