"""What people decided about volumes: a queue and its decisions in SQLite, kept for good.

Rows are added, never changed: the database itself refuses it. A decision is about the bytes that
were looked at; when a file changes, it is asked about anew.
"""

from __future__ import annotations

import getpass
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from minivess import files
from minivess.contracts import Case, Finding, Pairing
from minivess.data.filenames import suffix
from minivess.errors import DataError
from minivess.home import Home

Verdict = Literal["accept", "reject", "fix", "reopen"]
Role = Literal["image", "label"]
Mark = tuple[str, str, str]  # volume, md5 of its image, md5 of its label

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
    with _open(home) as database:
        rows = database.execute("select distinct dataset from seen order by dataset")
        return [row["dataset"] for row in rows]


def entries(home: Home, dataset: str) -> list[Entry]:
    """Every volume of a dataset as it was seen last, in order of name."""
    if not home.review_db.exists():
        return []
    with _open(home) as database:
        latest = [row for row in _latest(database, dataset) if row["present"]]
    made = decisions(home, dataset)
    return [_entry(row, made) for row in latest]


def decisions(home: Home, dataset: str) -> dict[Mark, tuple[Decision, ...]]:
    """Every decision about a dataset, by volume and bytes, oldest first."""
    if not home.review_db.exists():
        return {}
    with _open(home) as database:
        made = database.execute(
            "select * from decisions where dataset = ? order by id", (dataset,)
        ).fetchall()
    found: dict[Mark, tuple[Decision, ...]] = {}
    for row in made:
        found[_mark(row)] = (*found.get(_mark(row), ()), _decision(row))
    return found


def find(home: Home, dataset: str, case: str) -> Entry:
    """One volume.

    Raises:
        DataError: profiling has not seen a volume of that name.
    """
    known = {entry.case: entry for entry in entries(home, dataset)}
    if case not in known:
        shown = ", ".join(list(known)[:5]) or "none"
        raise DataError(
            f"{dataset} has no volume {case!r} (known: {shown}).",
            remedy="minivess review list --all, after `minivess profile` has seen the volumes",
        )
    return known[case]


def files_of(home: Home) -> Path:
    """Where the files that replace originals are kept."""
    return home.root / "review"


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
    with _open(home) as database:
        database.execute("begin immediate")
        before = {row["case_id"]: row for row in _latest(database, dataset)}
        for case in pairing.cases:
            row = _seen(dataset, case, hashes)
            decided, old = in_force.get(case.case, {}), before.get(case.case)
            row |= {
                "findings": json.dumps(found.get(case.case, [])),
                "in_force": json.dumps(decided),
            }
            if decided.get("verdict") == "reject" and old is not None:
                row["findings"] = old["findings"]  # it is not measured any more
            if old is None or any(old[name] != value for name, value in row.items()):
                _insert(database, "seen", {**row, "at": _now()})
        for name in sorted(before.keys() - {case.case for case in pairing.cases}):
            if before[name]["present"]:
                _insert(database, "seen", {**dict(before[name]), "present": 0, "at": _now()})
        database.commit()
    return [entry for entry in entries(home, dataset) if entry.is_open]


def decide(
    home: Home,
    entry: Entry,
    verdict: Verdict,
    *,
    who: str | None,
    why: str,
    replacements: Mapping[Role, Path] | None = None,
) -> None:
    """Write a decision down, with who, when and why; a fix brings its files.

    Raises:
        DataError: no reason is given, the volume cannot be used as it is, or a file does not fit.
    """
    if not why.strip():
        raise DataError(
            f"A decision about {entry.case} needs its reason.",
            remedy=f"minivess review {verdict} {entry.case} --why 'what you saw'",
        )
    if verdict == "accept":
        _refuse_unusable(entry)
    row = {
        "at": _now(), "dataset": entry.dataset, "case_id": entry.case,
        "image_md5": entry.image_md5, "label_md5": entry.label_md5,
        "verdict": verdict, "who": who or getpass.getuser(), "why": why.strip(),
    }  # fmt: skip
    rows = [row]
    if verdict == "fix":
        _check_fit(home, entry, replacements or {})
        rows = [
            {**row, "role": role, **_keep(home, path)}
            for role, path in (replacements or {}).items()
        ]
    with _open(home) as database:
        database.execute("begin immediate")
        for each in rows:
            _insert(database, "decisions", each)
        database.commit()


def _refuse_unusable(entry: Entry) -> None:
    from minivess.data.quality import BEYOND_ACCEPTING

    for finding in () if entry.replaced else entry.findings:
        if finding.severity == "error" and finding.code in BEYOND_ACCEPTING:
            raise DataError(
                f"{entry.case} cannot be used as it is: {finding.message}",
                remedy=f"minivess review fix {entry.case} --label FILE (or --image FILE) "
                "--why '...', or reject it",
            )


def _check_fit(home: Home, entry: Entry, given: Mapping[Role, Path]) -> None:
    """Read what will stand in for the originals: it must be a volume, both on one grid."""
    from minivess.data.volume import read

    if not given:
        raise DataError(
            f"A fix of {entry.case} needs a file.",
            remedy=f"minivess review fix {entry.case} --label FILE (or --image FILE) --why '...'",
        )
    earlier = {role: files_of(home) / str(made.file) for role, made in entry.replaced.items()}
    stands: dict[Role, Path] = {"image": entry.image, "label": entry.label, **earlier}
    for role, path in given.items():
        other: Role = "label" if role == "image" else "image"
        new, beside = read(path.expanduser()).shape, _shape(stands[other])
        if len(given) == 1 and beside is not None and new != beside:
            raise DataError(
                f"The new {role} of {entry.case} has shape {new}, its {other} {beside}.",
                remedy=f"save the {role} on the grid of its {other}, or give both files",
            )


def _shape(path: Path) -> tuple[int, ...] | None:
    from minivess.data.volume import read

    try:
        return read(path).shape
    except DataError:
        return None  # the original is what is wrong; profiling looks at the pair again


def _keep(home: Home, path: Path) -> dict[str, str]:
    """Our own copy of a replacement, named by its bytes."""
    source = path.expanduser()
    md5 = files.md5(source)
    name = f"{md5}{suffix(source)}"
    target = files_of(home) / name
    if not target.exists():
        files.copy(source, target)
    return {"file": name, "file_md5": md5}


# --- the database -------------------------------------------------------------------------


@contextmanager
def _open(home: Home) -> Iterator[sqlite3.Connection]:
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


def _insert(database: sqlite3.Connection, table: str, row: Mapping[str, Any]) -> None:
    values = {name: value for name, value in row.items() if name != "id"}
    marks = ", ".join(f":{name}" for name in values)
    database.execute(f"insert into {table} ({', '.join(values)}) values ({marks})", values)


def _seen(dataset: str, case: Case, hashes: Mapping[Path, str]) -> dict[str, Any]:
    label = case.label or case.image
    return {
        "dataset": dataset, "case_id": case.case, "image": str(case.image), "label": str(label),
        "image_md5": hashes[case.image], "label_md5": hashes[label], "present": 1,
    }  # fmt: skip


def _latest(database: sqlite3.Connection, dataset: str) -> list[sqlite3.Row]:
    return database.execute(
        "select * from seen where id in "
        "(select max(id) from seen where dataset = ? group by case_id) order by case_id",
        (dataset,),
    ).fetchall()


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


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
