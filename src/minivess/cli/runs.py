"""Results as people look for them: a table of runs, runs deleted."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from typing import Any

from minivess.errors import UsageError
from minivess.orchestration.session import Session
from minivess.text import first_of, format_size, several, table
from minivess.tracking.store import sql_reader
from minivess.upkeep import listing, purge

Outcome = dict[str, Any]
SHOWN = 40


def show(session: Session, kinds: Sequence[str], *, every: bool) -> Outcome:
    """Print the results of this home, newest first; `every` also folds, trials and failures.

    Raises:
        UsageError: a kind that there is not.
    """
    listing.require_kinds(kinds)
    asked = session.config
    named = asked.experiment if asked.name or asked.data.root or asked.data.name else None
    rows = listing.rows(session.store, kinds, experiment=named, every=every)
    heads = [("started", "kind", "experiment", "name", "status", "Dice", "run")] if rows else []
    for line in table([*heads, *(listing.cells(row) for row in rows[:SHOWN])]) if rows else []:
        session.print(f"  {line}")
    more = f", the newest {SHOWN} are shown; --json lists all" if len(rows) > SHOWN else ""
    session.print(f"  {several(len(rows), 'run')}{more}")
    return {"runs": rows}


def delete(session: Session, run_ids: Collection[str], *, yes: bool, force: bool) -> Outcome:
    """Delete runs with those below them: MLflow, artifacts, logs, reports and cells.

    Asks first on a terminal; without one, or with --json, only `yes` deletes.

    Raises:
        UsageError: a kept run, champion or model in production needs one of them, without `force`.
    """
    doomed = purge.with_children(session.store, run_ids)
    for one in doomed:
        needed = f", needed by {first_of(one.needed_by, 2)}" if one.needed_by else ""
        record = one.record
        session.print(f"  {record.name}, run {record.run_id}: {format_size(one.size)}{needed}")
    needed_by = [by for one in doomed for by in one.needed_by]
    if needed_by and not force:
        raise UsageError(
            f"These runs are needed by {first_of(needed_by, 2)}.",
            remedy="delete those first, or --force; versions of models go with their runs",
        )
    size = sum(one.size for one in doomed)
    what = f"{several(len(doomed), 'run')}, {format_size(size)}"
    if not (yes or _confirmed(session, f"Delete {what} for good?")):
        session.print(f"  {what} would be deleted for good; do it with --yes")
        return {"deleted": [], "bytes": 0}
    purge.delete(session.store, doomed)
    session.print(f"  {what} deleted")
    if not sql_reader.is_database(session.store):
        session.print("  the server keeps them until its database is purged: minivess purge")
    return {"deleted": [one.record.run_id for one in doomed], "bytes": size}


def _confirmed(session: Session, question: str) -> bool:
    if session.json or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    return input(f"  {question} [y/N] ").strip().lower() in {"y", "yes"}
