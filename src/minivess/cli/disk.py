"""What takes how much space in the output folder, and what can be made again."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from minivess import config as configs
from minivess import files, names
from minivess.cli.maintenance import conclude
from minivess.config import ExperimentConfig
from minivess.errors import UsageError
from minivess.home import Home, open_home
from minivess.orchestration.session import Session
from minivess.runtime.output import print_for
from minivess.text import format_size, several, table
from minivess.tracking.store import sql_reader

Outcome = dict[str, Any]


def show(_: ExperimentConfig, options: argparse.Namespace) -> Outcome:
    """Print the size of each part of the output folder, the largest first."""
    home = open_home(configs.environment().home, reading=True)
    places = Home.places()
    sizes = {path.name: files.size(path) for path in home.root.iterdir()}
    largest = sorted(sizes, key=lambda name: -sizes[name])
    rows = [
        (format_size(sizes[name]), name, places[name].holds if name in places else "")
        for name in largest
    ]
    free = shutil.disk_usage(home.root).free
    for line in table([*rows, (format_size(files.size(home.root)), "in all", str(home.root))]):
        print_for(options, f"  {line}")
    print_for(options, f"  {format_size(free)} free on its disk")
    return {"home": str(home.root), "bytes": sizes, "free_bytes": free}


def clean(session: Session, budget: Sequence[str], *, apply: bool) -> Outcome:
    """Print what can be made again and what that costs; remove it with `apply`.

    With a `budget` in GB the largest goes first, until the whole folder is below it.

    Raises:
        UsageError: the budget is no number.
    """
    session.need_store()
    limit = _bytes(budget[0]) if budget else 0.0
    whole = files.size(session.home.root)
    parts = {path: (files.size(path), cost) for path, cost in _again(session)}
    gone: list[Path] = []
    for path in sorted(parts, key=lambda path: -parts[path][0]):
        if whole > limit:
            gone.append(path)
            whole -= parts[path][0]
    rows = [(format_size(parts[path][0]), path.relative_to(session.home.root), parts[path][1])
            for path in gone]  # fmt: skip
    for line in table(rows) if rows else []:
        session.print(f"  {line}")
    for path in gone if apply else ():
        path.unlink() if path.is_file() else shutil.rmtree(path)
    freed = sum(parts[path][0] for path in gone)
    conclude(session, f"{several(len(gone), 'part')}, {format_size(freed)}", "removed", apply=apply)
    if budget and whole > limit:
        session.print(f"  {format_size(whole)} are left, which only minivess delete makes less")
    return {"removed": [str(path) for path in gone], "bytes": freed, "applied": apply}


def _bytes(text: str) -> float:
    try:
        return float(text) * 1e9
    except ValueError:
        raise UsageError(f"{text!r} is no size in GB.", remedy="minivess clean 50") from None


def _again(session: Session) -> Iterator[tuple[Path, str]]:
    """What can be made again, with its cost: caches, and folders of runs that are deleted."""
    for name, place in Home.places().items():
        path = session.home.root / name
        if place.again and path.exists():
            yield path, place.again
    records = sql_reader.records(session.store)
    known = {record.run_id for record in records}
    known |= {str(record.tags.get(names.KEY)) for record in records}
    for folder in (session.home.cells, session.home.reports):
        for path in folder.iterdir() if folder.exists() else ():
            if path.is_dir() and path.name not in known:
                yield path, "of a run that is deleted"
