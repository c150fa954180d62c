"""What people decided about volumes: a queue and its decisions in SQLite, kept for good.

Rows are added, never changed: the database itself refuses it. A decision is about the bytes that
were looked at; when a file changes, it is asked about anew.
"""

from __future__ import annotations

import json
import shlex
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from minivess.contracts import Case, Finding, Pairing
from minivess.data.review import database as review_db
from minivess.errors import DataError
from minivess.home import Home
from minivess.text import some

Verdict = Literal["accept", "reject", "fix", "reopen"]
Role = Literal["image", "label"]
Mark = tuple[str, str, str]  # volume, md5 of its image, md5 of its label


@dataclass(frozen=True)
class Decision:
    """One thing that somebody decided; `file` is a name below home/review for a fix."""

    at: str
    verdict: Verdict
    who: str
    why: str
    role: Role | None = None
    file: str | None = None
    file_md5: str | None = None


@dataclass(frozen=True)
class Entry:
    """A volume as profiling saw it last, and what was decided about these very bytes."""

    dataset: str
    case: str
    image: Path
    label: Path
    image_md5: str
    label_md5: str
    findings: tuple[Finding, ...]
    seen_at: str
    decisions: tuple[Decision, ...] = ()

    @property
    def verdict(self) -> Verdict | None:
        """What counts now."""
        return verdict(self.decisions)

    @property
    def replaced(self) -> dict[Role, Decision]:
        """The files that stand in for the originals."""
        return replaced(self.decisions)

    @property
    def is_open(self) -> bool:
        """Whether it waits for somebody: flagged, and nothing decided since."""
        decided = self.verdict in ("accept", "reject") or (
            self.verdict == "fix" and self.seen_at < self.decisions[-1].at
        )
        return not decided and any(finding.severity != "info" for finding in self.findings)


def verdict(made: Sequence[Decision]) -> Verdict | None:
    """What counts of these decisions: the last, unless it opened the volume again."""
    last = made[-1].verdict if made else None
    return None if last == "reopen" else last


def replaced(made: Sequence[Decision]) -> dict[Role, Decision]:
    """The fixes that count: of each file the last, since the volume was opened."""
    found: dict[Role, Decision] = {}
    for decision in made:
        if decision.verdict == "reopen":
            found.clear()
        elif decision.verdict == "fix" and decision.role is not None:
            found[decision.role] = decision
    return found


# --- reading ------------------------------------------------------------------------------


def datasets(home: Home) -> list[str]:
    """Datasets that were profiled in this home."""
    if not home.review_db.exists():
        return []
    with review_db.opened(home) as database:
        rows = database.execute("select distinct dataset from seen order by dataset")
        return [row["dataset"] for row in rows]


def entries(home: Home, dataset: str) -> list[Entry]:
    """Every volume of a dataset as it was seen last, in order of name."""
    if not home.review_db.exists():
        return []
    with review_db.opened(home) as database:
        latest = [row for row in review_db.latest(database, dataset) if row["present"]]
    made = decisions(home, dataset)
    return [_entry(row, made) for row in latest]


def decisions(home: Home, dataset: str) -> dict[Mark, tuple[Decision, ...]]:
    """Every decision about a dataset, by volume and bytes, oldest first."""
    if not home.review_db.exists():
        return {}
    with review_db.opened(home) as database:
        made = database.execute(
            "select * from decisions where dataset = ? order by id", (dataset,)
        ).fetchall()
    found: dict[Mark, tuple[Decision, ...]] = {}
    for row in made:
        found[_mark(row)] = (*found.get(_mark(row), ()), _decision(row))
    return found


def command(action: str, dataset: str, case: str = "CASE", rest: str = "--why '...'") -> str:
    """A command about one volume, which runs where this home has several datasets as well."""
    place = f"--dataset {shlex.quote(dataset)}"
    return f"minivess review {action} {shlex.quote(case)} {place} {rest}"


def find(home: Home, dataset: str, case: str) -> Entry:
    """One volume.

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


def files_of(home: Home) -> Path:
    """Where the files that replace originals are kept."""
    return home.root / "review"


def standing(home: Home, entry: Entry) -> dict[Role, Path]:
    """The files of a volume as they count now: replacements, else the originals."""
    given = {role: files_of(home) / str(made.file) for role, made in entry.replaced.items()}
    return {"image": entry.image, "label": entry.label, **given}


# --- writing ------------------------------------------------------------------------------


def enter(
    home: Home,
    dataset: str,
    pairing: Pairing,
    hashes: Mapping[Path, str],
    findings: Iterable[Finding],
    *,
    in_force: Mapping[str, Any],
) -> list[Entry]:
    """Note the volumes as profiling sees them; returns those that wait for a decision.

    `pairing` is that of the originals, `in_force` what the decisions about each made of it.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for finding in findings:
        if finding.case is not None:
            found.setdefault(finding.case, []).append(finding.model_dump(mode="json"))
    with review_db.opened(home) as database:
        database.execute("begin immediate")
        before = {row["case_id"]: row for row in review_db.latest(database, dataset)}
        for case in pairing.cases:
            decided, old = in_force.get(case.case, {}), before.get(case.case)
            row = _seen(dataset, case, hashes, found.get(case.case, []), decided)
            if decided.get("verdict") == "reject" and old is not None:
                row["findings"] = old["findings"]  # it is not measured any more
            if old is None or any(old[name] != value for name, value in row.items()):
                review_db.insert(database, "seen", {**row, "at": now()})
        for name in sorted(before.keys() - {case.case for case in pairing.cases}):
            if before[name]["present"]:
                gone = {**dict(before[name]), "present": 0, "at": now()}
                review_db.insert(database, "seen", gone)
        database.commit()
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


def _decision(row: sqlite3.Row) -> Decision:
    names = ("at", "verdict", "who", "why", "role", "file", "file_md5")
    return Decision(**{name: row[name] for name in names})


def _entry(row: sqlite3.Row, made: Mapping[Mark, Iterable[Decision]]) -> Entry:
    return Entry(
        dataset=row["dataset"],
        case=row["case_id"],
        image=Path(row["image"]),
        label=Path(row["label"]),
        image_md5=row["image_md5"],
        label_md5=row["label_md5"],
        findings=tuple(Finding.model_validate(f) for f in json.loads(row["findings"])),
        seen_at=row["at"],
        decisions=tuple(made.get(_mark(row), ())),
    )


def _mark(row: sqlite3.Row) -> Mark:
    return row["case_id"], row["image_md5"], row["label_md5"]


def now() -> str:
    """The time of a row."""
    return datetime.now(UTC).isoformat(timespec="microseconds")
