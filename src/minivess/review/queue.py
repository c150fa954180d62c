"""The review queue and people's decisions about volumes, kept in SQLite permanently.

A decision is about the bytes that were looked at; when a file changes, a new one is needed.
"""

from __future__ import annotations

import json
import shlex
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, Json

from minivess.contracts import Case, Finding, Pairing
from minivess.errors import DataError
from minivess.home import Home
from minivess.review import database as review_db
from minivess.text import some

Verdict = Literal["accept", "reject", "fix", "reopen"]
Role = Literal["image", "label"]
Mark = tuple[str, str, str]  # volume, md5 of its image, md5 of its label


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True)


class Decision(_Row):
    """One decision about a volume; `file` is a name below home/review for a fix."""

    at: str
    verdict: Verdict
    who: str
    why: str
    role: Role | None = None
    file: str | None = None
    file_md5: str | None = None


class Entry(_Row):
    """A volume as it was profiled last, and the decisions about exactly these bytes."""

    dataset: str
    case: str = Field(alias="case_id")
    image: Path
    label: Path
    image_md5: str
    label_md5: str
    findings: Json[tuple[Finding, ...]]
    seen_at: str = Field(alias="at")
    decisions: tuple[Decision, ...] = ()

    @property
    def originals(self) -> list[str]:
        """MD5 of the files that were looked at."""
        return [self.image_md5, self.label_md5]

    @property
    def verdict(self) -> Verdict | None:
        """The verdict that counts now."""
        return verdict(self.decisions)

    @property
    def replaced(self) -> dict[Role, Decision]:
        """The fixes whose files replace the originals."""
        return replaced(self.decisions)

    @property
    def is_open(self) -> bool:
        """Whether the volume waits for a decision: flagged, and nothing decided since."""
        decided = self.verdict in ("accept", "reject") or (
            self.verdict == "fix" and self.seen_at < self.decisions[-1].at
        )
        return not decided and any(finding.severity != "info" for finding in self.findings)


def command(action: str, dataset: str, case: str = "CASE", rest: str = "--why '...'") -> str:
    """Return a command about one volume, with the dataset, of which a home may have several."""
    place = f"--dataset {shlex.quote(dataset)}"
    return f"minivess review {action} {shlex.quote(case)} {place} {rest}"


def verdict(made: Sequence[Decision]) -> Verdict | None:
    """Return the verdict in force: the last one, unless it reopened the volume."""
    last = made[-1].verdict if made else None
    return None if last == "reopen" else last


def replaced(made: Sequence[Decision]) -> dict[Role, Decision]:
    """Return the fixes in force: the last one of each file since the volume was reopened."""
    found: dict[Role, Decision] = {}
    for decision in made:
        if decision.verdict == "reopen":
            found.clear()
        elif decision.verdict == "fix" and decision.role is not None:
            found[decision.role] = decision
    return found


# --- reading ------------------------------------------------------------------------------


def datasets(home: Home) -> list[str]:
    """Return the datasets that were profiled in this home."""
    rows = review_db.select(home, "select distinct dataset from seen order by dataset")
    return [row["dataset"] for row in rows]


def entries(home: Home, dataset: str) -> list[Entry]:
    """Return every volume of a dataset as it was seen last, in order of name."""
    made = decisions(home, dataset)
    return [
        Entry.model_validate({**row, "decisions": made.get(_mark(row), ())})
        for row in review_db.select(home, review_db.LATEST, dataset)
        if row["present"]
    ]


def decisions(home: Home, dataset: str) -> dict[Mark, tuple[Decision, ...]]:
    """Return every decision about a dataset, by volume and bytes, oldest first."""
    query = "select * from decisions where dataset = ? order by id"
    found: dict[Mark, tuple[Decision, ...]] = {}
    for row in review_db.select(home, query, dataset):
        made = Decision.model_validate(dict(row))
        found[_mark(row)] = (*found.get(_mark(row), ()), made)
    return found


def find(home: Home, dataset: str, case: str) -> Entry:
    """Return one volume.

    Raises:
        DataError: profiling has not seen a volume of that name.
    """
    known = {entry.case: entry for entry in entries(home, dataset)}
    if case not in known:
        shown = some(known, 5) or "none"
        raise DataError(
            f"{dataset} has no volume {case!r} (known: {shown}).",
            remedy=f"minivess review list --all --dataset {shlex.quote(dataset)}, after "
            "`minivess profile` has seen the volumes",
        )
    return known[case]


def replacements_folder(home: Home) -> Path:
    """Return the folder of files that replace originals."""
    return home.root / "review"


def current_files(home: Home, entry: Entry) -> dict[Role, Path]:
    """Return the files of a volume in use: replacements, else the originals."""
    given = {
        role: replacements_folder(home) / str(made.file) for role, made in entry.replaced.items()
    }
    return {"image": entry.image, "label": entry.label, **given}


# --- writing ------------------------------------------------------------------------------


def record_seen(
    home: Home,
    dataset: str,
    pairing: Pairing,
    hashes: Mapping[Path, str],
    findings: Iterable[Finding],
    *,
    in_force: Mapping[str, Any],
) -> list[Entry]:
    """Record the volumes as profiled; return those that wait for a decision.

    `pairing` is that of the originals, `in_force` what the decisions about each made of it.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for finding in findings:
        if finding.case is not None:
            found.setdefault(finding.case, []).append(finding.model_dump(mode="json"))
    with review_db.transaction(home) as database:
        latest = database.execute(review_db.LATEST, (dataset,))
        before = {row["case_id"]: row for row in latest}
        for case in pairing.cases:
            decided, old = in_force.get(case.case, {}), before.pop(case.case, None)
            row = _seen(dataset, case, hashes, found.get(case.case, []), decided)
            if decided.get("verdict") == "reject" and old is not None:
                row["findings"] = old["findings"]  # it is not measured any more
            if old is None or any(old[name] != value for name, value in row.items()):
                review_db.insert(database, "seen", {**row, "at": timestamp()})
        for gone in before.values():
            if gone["present"]:
                review_db.insert(database, "seen", {**gone, "present": 0, "at": timestamp()})
    return [entry for entry in entries(home, dataset) if entry.is_open]


# --- rows ---------------------------------------------------------------------------------


def _seen(
    dataset: str, case: Case, hashes: Mapping[Path, str], findings: list[Any], decided: Any
) -> dict[str, Any]:
    label = case.label or case.image
    return {
        "dataset": dataset, "case_id": case.case, "image": str(case.image), "label": str(label),
        "image_md5": hashes[case.image], "label_md5": hashes[label], "present": 1,
        "findings": json.dumps(findings), "in_force": json.dumps(decided),
    }  # fmt: skip


def _mark(row: sqlite3.Row) -> Mark:
    return row["case_id"], row["image_md5"], row["label_md5"]


def timestamp() -> str:
    """Return the time for a new row."""
    return datetime.now(UTC).isoformat(timespec="microseconds")
