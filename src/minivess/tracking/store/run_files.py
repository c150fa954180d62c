"""The files that a run wrote, by its own list: where they are, and whether they are whole."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from stat import S_ISREG
from typing import Any

from minivess import files, names
from minivess.contracts import RunRecord
from minivess.tracking.store import artifacts
from minivess.tracking.store.store import Store


def artifact_names(store: Store, record: RunRecord, path: str = "") -> dict[str, int]:
    """Every artifact file of a run, or below one of its folders, with its size.

    Without asking the store, where the artifacts lie on this machine's disk.
    """
    root = artifacts.local(record.artifact_uri)
    if root is None:
        return store.artifacts(record.run_id, path or None)
    found = ((file.relative_to(root), file.stat()) for file in (root / path).rglob("*"))
    return {name.as_posix(): status.st_size for name, status in found if S_ISREG(status.st_mode)}


def damage(
    store: Store, record: RunRecord, below: tuple[str, ...] = ("",), *, hashed: int | None = None
) -> list[str]:
    """Files of a run that are gone or are not those that it wrote, by its own list of them.

    `below` limits that to some files and folders. On this machine's disk their bytes are read,
    those above `hashed` of them left out. A run of an earlier release has no such list.
    """
    held_now, root, found = artifact_names(store, record), artifacts.local(record.artifact_uri), []
    for path, entry in written(store, record.run_id).items():
        if not path.startswith(below):
            continue
        if held_now.get(path) != entry["size"]:
            found.append(f"{path} has {held_now.get(path, 'no')} of {entry['size']} bytes")
        elif root is None or (hashed is not None and entry["size"] > hashed):
            continue
        elif files.sha256(root / path) != entry["sha256"]:
            found.append(f"{path} holds other bytes than were written")
    return found


def written(store: Store, run_id: str) -> dict[str, dict[str, Any]]:
    """Artifact -> size and hash, as the run listed them at its end; {} for earlier releases."""
    if not store.artifacts(run_id, names.FILES_ARTIFACT):
        return {}
    listed: dict[str, dict[str, Any]] = store.read_json(run_id, names.FILES_ARTIFACT)
    return listed


def is_same(path: Path, entry: Mapping[str, Any]) -> bool:
    """Whether a file here is the one that a run listed."""
    return (
        path.is_file()
        and path.stat().st_size == entry["size"]
        and entry.get("sha256") in (None, files.sha256(path))
    )
