"""Compare a run's journal with MLflow's SQLite database, without any code of the product or MLflow.

    python tests/faults/checker.py JOURNAL.jsonl MLFLOW.db

Says what is lost, doubled, out of order, or of another value; says nothing if all is as written.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import sys
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

UID = "minivess.uid"
Operation = dict[str, Any]


def differences(journal: Path, database: Path) -> list[str]:
    """Return one sentence for each law that is broken."""
    operations = list(_operations(journal))
    opening = next(one for one in operations if one["op"] == "open")
    uid = opening["tags"][UID]
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as store:
        runs = store.execute(
            "SELECT run_uuid, status, artifact_uri FROM runs JOIN tags USING (run_uuid) "
            "WHERE key = ? AND value = ? AND lifecycle_stage = 'active'",
            [UID, uid],
        ).fetchall()
        if len(runs) != 1:
            return [f"{len(runs)} runs have the uid {uid}"]
        run_id, status, artifacts = runs[0]
        closing_line = next((one for one in operations if one["op"] == "close"), None)
        found = [] if closing_line is None or status == closing_line["status"] else [
            f"the status is {status}, not {closing_line['status']}"
        ]  # fmt: skip
        found += _metrics(operations, store, run_id)
        for table in ("params", "tags"):
            found += _latest(table, operations, store, run_id)
    return found + _files(operations, Path(unquote(urlparse(artifacts).path)))


def _operations(journal: Path) -> Iterator[Operation]:
    for number, line in enumerate(journal.read_bytes().splitlines()):
        code, body = line.split(b" ", 1)
        seq, text = body.split(b" ", 1)
        if int(code, 16) != zlib.crc32(body) or int(seq) != number:
            raise ValueError(f"line {number} of {journal} is damaged")
        yield json.loads(text)


def _metrics(operations: list[Operation], store: sqlite3.Connection, run_id: str) -> list[str]:
    wanted = defaultdict(list)
    for one in operations:
        for name, value in one.get("metrics", {}).items():
            # SQLite holds 0 beside a mark where a value is no number.
            wanted[name].append((one["step"], 0.0 if value is None else value, value is None))
    stored = defaultdict(list)
    rows = store.execute(
        "SELECT key, step, value, is_nan FROM metrics WHERE run_uuid = ? "
        "ORDER BY key, timestamp, step",
        [run_id],
    )
    for name, step, value, is_nan in rows:
        stored[name].append((step, value, bool(is_nan)))
    found = []
    for name in sorted({*wanted, *stored}):
        lost = Counter(wanted[name]) - Counter(stored[name])
        doubled = Counter(stored[name]) - Counter(wanted[name])
        if lost or doubled:
            found.append(f"metric {name}: lost {sorted(lost)}, too many {sorted(doubled)}")
        elif [row[0] for row in stored[name]] != [row[0] for row in wanted[name]]:
            found.append(f"metric {name}: out of order")
    return found


def _latest(
    table: str, operations: list[Operation], store: sqlite3.Connection, run_id: str
) -> list[str]:
    """The last value of each param and tag that holds no reference to another run."""
    wanted: dict[str, str] = {}
    for one in operations:
        wanted |= {key: str(value) for key, value in one.get(table, {}).items()}
        if one["op"] == "close" and table == "tags":
            wanted["run_status"] = one["status"]
    rows = store.execute(f"SELECT key, value FROM {table} WHERE run_uuid = ?", [run_id])
    stored = dict(rows.fetchall())
    return [
        f"{table} {key}: {stored.get(key)!r}, not {value!r}"
        for key, value in wanted.items()
        if "uid-" not in value and stored.get(key) != value
    ]


def _files(operations: list[Operation], artifacts: Path) -> list[str]:
    """Each file is there; those that hold no reference to a run have the bytes of the spool."""
    wanted = {one["to"]: one["sha256"] for one in operations if one["op"] == "file"}
    found = []
    for to, digest in wanted.items():
        path = artifacts / to
        if not path.is_file():
            found.append(f"the artifact {to} is lost")
        elif hashlib.sha256(path.read_bytes()).hexdigest() != digest and not may_refer(path):
            found.append(f"the artifact {to} has other bytes")
    return found


def may_refer(path: Path) -> bool:
    """Whether it is a text, in which references to runs have become their ids."""
    return path.suffix in (".json", ".yaml", ".md", ".txt", ".html", ".csv", ".log")


if __name__ == "__main__":
    problems = differences(Path(sys.argv[1]), Path(sys.argv[2]))
    sys.stdout.write("".join(f"{one}\n" for one in problems) or "each value once, in order\n")
    sys.exit(bool(problems))
