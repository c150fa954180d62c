"""Runs as rows of a table, for the command line and for frames."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any

from minivess import names
from minivess.errors import UsageError, nearest
from minivess.tracking.store import sql_reader
from minivess.tracking.store.store import Store

RESULTS = (
    names.PROFILE, names.FAMILY, names.REFIT, names.SEARCH, names.ANALYSIS, names.DEPLOYMENT,
)  # fmt: skip
KINDS = (*RESULTS, names.CELL, names.TRIAL)
COLUMNS = (
    "run_id", "started", "seconds", "kind", "experiment", "dataset", "name", "status", "dice",
)  # fmt: skip
DICE = ("eval_dice", "champion_dice")


def require_kinds(kinds: Collection[str]) -> None:
    """Check kinds of runs by name.

    Raises:
        UsageError: one that there is not.
    """
    for kind in kinds:
        if kind not in KINDS:
            near = nearest(kind, KINDS)
            raise UsageError(
                f"There are no runs of a kind {kind!r}.",
                remedy=f"did you mean {near}?" if near else f"one of {', '.join(KINDS)}",
            )


def rows(
    store: Store,
    kinds: Collection[str] = (),
    *,
    experiment: str | None = None,
    every: bool = False,
) -> list[dict[str, Any]]:
    """Return runs, newest first.

    Args:
        kinds: only these; without any, results: no folds and no trials unless `every`.
        experiment: only those of this experiment, or of the dataset of this name.
        every: also runs that failed or were killed.
    """
    wanted = kinds or (KINDS if every else RESULTS)
    found = []
    for record in sql_reader.records(store):
        kind = record.tags.get(names.KIND, "?")
        dataset = record.params.get(names.DATASET_NAME)
        own = record.params.get(names.UPSTREAM_EXPERIMENT, record.experiment)
        own = dataset if kind == names.PROFILE and dataset else own
        if kind not in wanted and not (every and kind not in KINDS and not kinds):
            continue
        if (experiment is None or own == experiment) and (
            every or record.status not in ("FAILED", "KILLED")
        ):
            dice = next((record.metrics[m] for m in DICE if m in record.metrics), None)
            took = None if record.end_time is None else record.end_time - record.start_time
            found.append({
                "run_id": record.run_id, "started": record.start_time / 1000,
                "seconds": None if took is None else took / 1000, "kind": kind,
                "experiment": own, "dataset": dataset, "name": record.name,
                "status": record.status, "dice": dice,
            })  # fmt: skip
    return found


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """A row as its cells on a screen."""
    started = datetime.fromtimestamp(row["started"]).strftime("%Y-%m-%d %H:%M")
    dice = "" if row["dice"] is None else f"{row['dice']:.3f}"
    return started, row["kind"], row["experiment"], row["name"], row["status"], dice, row["run_id"]
