"""Record decisions about volumes after checking them; files of a fix are copied."""

from __future__ import annotations

import getpass
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from minivess import files
from minivess.data.checks import is_final
from minivess.data.profiling.grids import align_label
from minivess.errors import DataError
from minivess.formats.filenames import suffix, volume_files
from minivess.formats.volume import Volume, read_volume, write_volume
from minivess.home import Home
from minivess.review import database as review_db
from minivess.review import queue


def decide(
    home: Home,
    entry: queue.Entry,
    verdict: queue.Verdict,
    *,
    who: str | None,
    why: str,
    replacements: Mapping[queue.Role, Path] | None = None,
) -> None:
    """Record a decision with who, when and why; a fix brings its files.

    Raises:
        DataError: no reason is given, the volume cannot be used as it is, or a file does not fit.
    """
    if not why.strip():
        raise DataError(
            f"A decision about {entry.case} needs its reason.",
            remedy=queue.command(verdict, entry.dataset, entry.case, "--why 'what you saw'"),
        )
    if verdict == "accept":
        _refuse_unusable(entry)
    row = {
        "at": queue.timestamp(), "dataset": entry.dataset, "case_id": entry.case,
        "image_md5": entry.image_md5, "label_md5": entry.label_md5,
        "verdict": verdict, "who": who or getpass.getuser(), "why": why.strip(),
    }  # fmt: skip
    rows: list[dict[str, str]] = [row]
    if verdict == "fix":
        _check_fit(home, entry, replacements or {})
        rows = [
            {**row, "role": role, **_keep(home, path)}
            for role, path in (replacements or {}).items()
        ]
    if _said_already(entry, rows):
        return
    with review_db.transaction(home) as database:
        for each in rows:
            review_db.insert(database, "decisions", each)


def _said_already(entry: queue.Entry, rows: Sequence[Mapping[str, object]]) -> bool:
    """Whether these equal the last decisions, so that importing twice decides once."""
    words = ("verdict", "who", "why", "role", "file_md5")
    last = [[getattr(made, word) for word in words] for made in entry.decisions[-len(rows) :]]
    return last == [[row.get(word) for word in words] for row in rows]


def _refuse_unusable(entry: queue.Entry) -> None:
    for finding in () if entry.replaced else entry.findings:
        if is_final(finding):
            raise DataError(
                f"{entry.case} cannot be used as it is: {finding.message}",
                remedy=f"{_fix(entry)}, or reject it",
            )


def _fix(entry: queue.Entry) -> str:
    rest = "--label FILE (or --image FILE) --why '...'"
    return queue.command("fix", entry.dataset, entry.case, rest)


def _check_fit(home: Home, entry: queue.Entry, given: Mapping[queue.Role, Path]) -> None:
    """Check that the files that replace originals are volumes, and both on one grid."""
    if not given:
        raise DataError(f"A fix of {entry.case} needs a file.", remedy=_fix(entry))
    stands = queue.current_files(home, entry)
    for role, path in given.items():
        other: queue.Role = "label" if role == "image" else "image"
        new, beside = read_volume(path.expanduser()), _volume(stands[other])
        fits = beside is None or align_label(new, beside).shape == beside.shape
        if len(given) == 1 and beside is not None and not fits:
            raise DataError(
                f"The new {role} of {entry.case} has shape {new.shape}, its {other} "
                f"{beside.shape}.",
                remedy=f"save the {role} on the grid of its {other}, or give both files",
            )


def _volume(path: Path) -> Volume | None:
    try:
        return read_volume(path)
    except DataError:
        return None  # the original is damaged; profiling checks the pair again


def _keep(home: Home, path: Path) -> dict[str, str]:
    """Copy a replacement under the hash of its bytes; several files become one NIfTI."""
    source = path.expanduser()
    if len(volume_files(source)) > 1:
        with tempfile.TemporaryDirectory() as folder:
            return _keep(home, write_volume(Path(folder) / "whole.nii.gz", read_volume(source)))
    md5 = files.md5(source)
    name = f"{md5}{suffix(source)}"
    target = queue.replacements_folder(home) / name
    if not target.exists():
        files.copy(source, target)
    return {"file": name, "file_md5": md5}
