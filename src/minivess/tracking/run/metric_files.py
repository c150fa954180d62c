"""Metrics in CSV and Parquet files, readable during training and without MLflow.

tables/<experiment>/history/<run>-<uid>.csv   time,step,metric,value; a line within a second
tables/<experiment>/history/<run>-<uid>.parquet   the same, when the run has ended
tables/<experiment>/metrics.csv   one row for each fold that finished
tables/<experiment>/summary.csv   made from metrics.csv alone
"""

from __future__ import annotations

import csv
import io
import logging
import math
import os
import re
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from minivess import files, home, names
from minivess.errors import StoreError
from minivess.home import Home
from minivess.tracking.journal.journal import Journal, Operation

HEADER = ("time", "step", "metric", "value")
FOLD = ("family", "fold", "run", "ended", "n_volumes")
LOWER_IS_BETTER = (*names.DISTANCES, "minutes")
SUMMARY = Path(__file__).with_name("summary.sql")
Row = dict[str, Any]
log = logging.getLogger(__name__)


def folder(place: Home, experiment: str) -> Path:
    """Return the folder of an experiment's files."""
    return place.tables / re.sub(r"[^A-Za-z0-9._-]+", "-", experiment).strip("-.")


# --- the history of a run -----------------------------------------------------------------


class History:
    """Writes the metrics of one journal to a CSV file as they arrive."""

    def __init__(self, journal: Journal, path: Path) -> None:
        self.journal, self.path = journal, path
        self._offset = self._read = 0
        self._torn = False
        self._lock, self._finished = threading.Lock(), False

    def update(self) -> None:
        """Append new metrics."""
        with self._lock:
            if not self._finished:
                self._append()

    def _append(self) -> None:
        found, self._offset = self.journal.read(self._offset, self._read)
        self._read += len(found)
        lines = list(_lines(found))
        if not lines:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(_text(lines, header=stream.tell() == 0))
        except OSError as error:
            if not self._torn:
                log.warning("%s is incomplete until the run ends (%s).", self.path, error.strerror)
            self._torn = True

    def finish(self) -> None:
        """Write the whole history, as CSV and as Parquet."""
        with self._lock:
            self._finished = True
            found, _ = self.journal.read(0, 0)
        lines = list(_lines(found))
        if not lines:
            return
        try:
            files.write_text(self.path, _text(lines, header=True))
            files.write(self.path.with_suffix(".parquet"), lambda file: _parquet(lines, file))
        except OSError as error:
            log.warning("%s could not be written: %s", self.path, error.strerror)


def _lines(operations: Iterable[Operation]) -> Iterator[tuple[int, int, str, float | None]]:
    for operation in operations:
        for name, value in operation.get("metrics", {}).items():
            yield operation["t"], operation["step"], name, value


def _text(rows: Iterable[tuple[object, ...]], *, header: bool) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([HEADER, *rows] if header else rows)
    return text.getvalue()


def _parquet(rows: list[tuple[int, int, str, float | None]], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = dict(zip(HEADER, zip(*rows, strict=True), strict=True))
    columns["value"] = tuple(math.nan if v is None else v for v in columns["value"])
    pq.write_table(pa.table({name: list(column) for name, column in columns.items()}), path)


# --- one row for each fold, and their summary ----------------------------------------------


def add_fold(place: Path, row: Mapping[str, Any]) -> None:
    """Add a row to metrics.csv; cells that end at the same time wait for each other."""
    path = place / "metrics.csv"
    with home.lock(path.with_suffix(".lock"), what="adding a fold", wait=True):
        rows = [*read(path), dict(row)] if path.is_file() else [dict(row)]
        files.write_csv(path, rows, FOLD)


def forget(place: Home, uids: Collection[str]) -> None:
    """Remove the rows and the histories of runs that are deleted, and summaries made of them."""
    for path in place.tables.glob("*/metrics.csv"):
        with home.lock(path.with_suffix(".lock"), what="removing folds", wait=True):
            rows = read(path)
            kept = [row for row in rows if row["run"] not in uids]
            if len(kept) < len(rows):
                files.write_csv(path, kept, FOLD)
                (path.parent / "summary.csv").unlink(missing_ok=True)
    for uid in uids:
        for path in place.tables.glob(f"*/history/*-{uid[:8]}.*"):
            path.unlink()


def summarise(place: Path) -> list[Row]:
    """Write mean, standard deviation and rank of each family and metric into summary.csv.

    The newest row of a fold counts. Means are over volumes, standard deviations over folds.
    `n_undefined` is the number of volumes that a mean leaves out.

    Raises:
        StoreError: no fold has finished.
    """
    path = place / "metrics.csv"
    others = sorted({one.parent.name for one in place.parent.glob("*/metrics.csv")} - {place.name})
    if not (path.is_file() and read(path)):
        raise StoreError(
            f"There is no fold in {path}: none of this experiment has finished here, or its runs "
            "were deleted.",
            remedy=f"minivess summary name={others[0]}" if others else "minivess train",
        )
    import duckdb

    with duckdb.connect() as database:
        answer = database.execute(
            SUMMARY.read_text(encoding="utf-8"), [str(path), LOWER_IS_BETTER, names.METRICS]
        )
        columns = [column[0] for column in answer.description or ()]
        rows = [dict(zip(columns, row, strict=True)) for row in answer.fetchall()]
    if os.access(place, os.W_OK):
        files.write_csv(place / "summary.csv", rows)
    return rows


def read(path: Path) -> list[dict[str, str]]:
    """Read the rows of a CSV file."""
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))
