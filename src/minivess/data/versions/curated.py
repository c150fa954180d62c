"""The curated copy of the usable volumes, images/<case> and labels/<case>, and its DVC hash.

The originals are read and never linked: `dvc add` makes linked files read-only, and a hard link
to an original would reach it. Only our copies and DVC's cache share their bytes.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from minivess import files
from minivess.contracts import Case, DatasetProfile
from minivess.data.versions.file_hashes import FileHashes
from minivess.errors import DataError
from minivess.formats.filenames import curated_names
from minivess.home import Home, lock

RESERVED = frozenset({"remote", "tmp"})
COPIES = 2  # ours and the remote's; DVC's cache shares ours
FICLONE = 0x40049409  # ioctl of Linux that shares blocks between files


def file_index(home: Home) -> FileHashes:
    """Return the index of file hashes of this home."""
    return FileHashes(home.profile_cache / "index.json")


def curated_folder(home: Home, dataset: str) -> Path:
    """Return the curated folder of a dataset."""
    safe = f"data-{dataset}" if dataset in RESERVED or dataset.startswith(".") else dataset
    return home.dvc / safe


def curate(home: Home, dataset: str, cases: Iterable[Case]) -> Path:
    """Copy the usable volumes into our folder: images/<case>, labels/<case>, and nothing else.

    Files whose bytes are there already are kept; the folder is swapped whole.

    Raises:
        DataError: the disk is too small.
    """
    folder = curated_folder(home, dataset)
    sources = dict(_sources(cases))
    with lock(home.dvc / ".lock", what="curate", wait=True):
        kept = _unchanged(folder, sources, file_index(home))
        if len(kept) == len(sources) and _contents(folder) == set(sources):
            return folder
        _check_disk(home, [path for name, path in sources.items() if name not in kept])
        _swap(folder, sources, kept)
        note_state(home, folder, folder_hash(folder, file_index(home)))
    return folder


def folder_hash(folder: Path, index: FileHashes | None = None) -> str:
    """Return the md5 that DVC gives a folder, ending in `.dir`."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    hashes = index.hashes(paths) if index else {path: files.md5(path) for path in paths}
    return tree_hash({path.relative_to(folder).as_posix(): hashes[path] for path in paths})


def curated_hash(cases: Iterable[Case], hashes: Mapping[Path, str]) -> str:
    """Return the hash that the curated folder of these cases will have."""
    return tree_hash({name: hashes[path] for name, path in _sources(cases)})


def tree_hash(md5s: Mapping[str, str]) -> str:
    """Return DVC's hash of a folder, from the md5 of each relative path."""
    entries = [{"md5": md5s[name], "relpath": name} for name in sorted(md5s)]
    listing = json.dumps(entries, sort_keys=True).encode()
    return hashlib.md5(listing, usedforsecurity=False).hexdigest() + ".dir"


def converted_file(store: Path, role: str) -> Path:
    """Return the path of a file that is curated in place of a case's image or label."""
    return store / f"{role}.nii.gz"


def curated_case(case: Case, converted: Iterable[str], store: Path) -> Case:
    """Return the case with the files that are curated: its own, or those that were converted."""
    return case.replace(**{role: converted_file(store, role) for role in converted})


def curated_cases(folder: Path, profile: DatasetProfile) -> list[Case]:
    """Return the volumes of a profile as files of its curated folder."""
    return [
        Case(
            case=volume.case,
            image=folder / volume.filename,
            label=folder / volume.label_filename,
            group=volume.group,
        )
        for volume in profile.volumes
    ]


def state_file(home: Home, folder: Path) -> Path:
    return home.dvc / "tmp" / f"{folder.name}.state"


def note_state(home: Home, folder: Path, tree: str) -> None:
    """Record the hash of the folder as minivess left it."""
    files.write_text(state_file(home, folder), tree)


# --- copying -----------------------------------------------------------------------------


def _sources(cases: Iterable[Case]) -> Iterator[tuple[str, Path]]:
    for case in cases:
        yield from zip(curated_names(case), case.files, strict=True)


def _contents(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def _unchanged(folder: Path, sources: Mapping[str, Path], index: FileHashes) -> set[str]:
    there = {name: folder / name for name in sources if (folder / name).is_file()}
    hashes = index.hashes([*there.values(), *(sources[name] for name in there)])
    return {name for name, path in there.items() if hashes[path] == hashes[sources[name]]}


def _check_disk(home: Home, fresh: Iterable[Path]) -> None:
    needed = COPIES * sum(path.stat().st_size for path in fresh)
    home.dvc.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(home.dvc).free
    if needed > free:
        raise DataError(
            f"A version of the data needs {needed / 1e9:.1f} GB below {home.root}, where "
            f"{free / 1e9:.1f} GB are free.",
            remedy="MINIVESS_HOME=/path/on/a/larger/disk",
        )


def _swap(folder: Path, sources: Mapping[str, Path], kept: set[str]) -> None:
    """Build the new folder beside the old one, then put it in its place."""
    mark = uuid.uuid4().hex[:8]
    building, old = folder.with_name(f".{mark}-new"), folder.with_name(f".{mark}-old")
    try:
        for name, source in sources.items():
            target = building / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if name not in kept or not _link(folder / name, target):
                _copy(source, target)
        if folder.exists():
            folder.replace(old)
        building.replace(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _link(ours: Path, target: Path) -> bool:
    """Make a hard link to a curated file; False if the file system has no links."""
    try:
        os.link(ours, target)
    except OSError:
        return False
    return True


def _copy(source: Path, target: Path) -> None:
    """Copy the bytes alone, sharing blocks if the file system can."""
    try:
        with source.open("rb") as original, target.open("wb") as copy:
            fcntl.ioctl(copy, FICLONE, original.fileno())
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EACCES, errno.ENOSPC):
            raise
        shutil.copyfile(source, target)
