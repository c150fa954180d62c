"""What holds of every run, whatever happened: stated once, asked by each test of faults."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from minivess import names
from minivess.contracts import AliasMove


@dataclass
class Written:
    """What a program wrote to one run, as it remembers it."""

    uid: str
    metrics: list[tuple[str, int, float]] = field(default_factory=list)
    """(name, step, value) in the order of writing."""
    params: dict[str, str] = field(default_factory=dict)
    files: dict[str, list[bytes]] = field(default_factory=dict)
    """Every content that a file had, the newest last."""
    safe: int = 0
    """How many of the metrics a disk has confirmed."""
    ended: str | None = None
    """The status with which the program ended it; None if the program was killed before."""


@dataclass
class Stored:
    """What a store holds of one run."""

    uid: str
    status: str
    metrics: list[tuple[str, int, float]]
    """(name, step, value) in the order of arrival."""
    params: Mapping[str, str]
    tags: Mapping[str, str]
    files: Mapping[str, bytes]


def broken(written: Written, stored: Iterable[Stored], journals: Path) -> list[str]:
    """One sentence for each law that does not hold of a run, once nothing is on its way."""
    found = [run for run in stored if run.uid == written.uid]
    if not found and written.ended is None and not written.safe:
        return []  # killed before anything of it was safe
    if len(found) != 1:
        return [f"{len(found)} runs stand for run {written.uid}"]
    run, wrong = found[0], []
    status = written.ended or "KILLED"
    if run.status != status or run.tags.get("run_status") != status:
        wrong.append(f"it ended {status} and is {run.status} ({run.tags.get('run_status')})")
    owed = len(written.metrics) if written.ended else written.safe
    if run.metrics != written.metrics[: max(owed, len(run.metrics))]:
        wrong.append(f"metrics: {run.metrics} of {written.metrics}, {owed} owed")
    if written.ended and dict(run.params) != written.params:
        wrong.append(f"params: {dict(run.params)} of {written.params}")
    for to, contents in written.files.items():
        allowed = contents[-1:] if written.ended else [*contents, None]
        if run.files.get(to) not in allowed:
            wrong.append(f"file {to}: {run.files.get(to)!r} of {contents}")
    if list(journals.glob(f"{written.uid}*")):
        wrong.append("its journal is still there")
    return [f"run {written.uid}: {sentence}" for sentence in wrong]


def misplaced(
    aliases: Mapping[str, str],
    versions: Collection[str],
    proved: Collection[str],
    history: Sequence[AliasMove],
) -> list[str]:
    """One sentence for each law of aliases that does not hold of a registered model."""
    wrong = [f"{alias}: no version {v}" for alias, v in aliases.items() if v not in versions]
    served = aliases.get(names.PRODUCTION_ALIAS)
    if served is not None and served not in proved:
        wrong.append(f"version {served} serves and was never proved")
    if (history[-1].version if history else None) != served:
        wrong.append(f"version {served} serves, and its history is {history}")
    wrong += [f"the history jumps to {b}" for a, b in pairwise(history) if b.before != a.version]
    return wrong


def misdirected(pointers: Mapping[str, Any], finished: Collection[str]) -> list[str]:
    """One sentence for each pointer to a run that is not FINISHED."""
    return [
        f"{name} points at {run_id}, which is not FINISHED"
        for name, holds in pointers.items()
        for run_id in holds.get("run_ids") or [holds["run_id"]]
        if run_id not in finished
    ]
