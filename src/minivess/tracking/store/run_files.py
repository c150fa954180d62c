"""Artifact files of a run: names, sizes, and comparison with the list the run wrote."""

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
    """Return artifact path -> size in bytes, of a run or of one of its folders.

    Artifacts on a local disk are listed without a request to the store.
    """
    root = artifacts.local_folder(record.artifact_uri)
    if root is None:
        return store.artifacts(record.run_id, path or None)
    found = ((file.relative_to(root), file.stat()) for file in (root / path).rglob("*"))
    return {name.as_posix(): status.st_size for name, status in found if S_ISREG(status.st_mode)}


def damaged_files(
    store: Store, record: RunRecord, below: tuple[str, ...] = ("",), *, hashed: int | None = None
) -> list[str]:
    """Return what is wrong with a run's files, compared with the list it wrote; [] if nothing is.

    A run of an earlier release has no such list.

    Args:
        below: files and folders to check.
        hashed: largest file in bytes of which the hash is compared; only local files are hashed.
    """
    sizes, found = artifact_names(store, record), []
    root = artifacts.local_folder(record.artifact_uri)
    for path, entry in listed_files(store, record).items():
        if not path.startswith(below):
            continue
        if sizes.get(path) != entry["size"]:
            found.append(f"{path} has {sizes.get(path, 'no')} of {entry['size']} bytes")
        elif root is None or (hashed is not None and entry["size"] > hashed):
            continue
        elif files.sha256(root / path) != entry["sha256"]:
            found.append(f"{path} holds other bytes than were written")
    return found


def listed_files(store: Store, record: RunRecord) -> dict[str, dict[str, Any]]:
    """Return artifact path -> size and hash, as listed by the run; {} for earlier releases."""
    path = names.FILES_ARTIFACT
    there = path in artifact_names(store, record, str(Path(path).parent))
    return store.read_json(record.run_id, path) if there else {}


def is_listed_file(path: Path, entry: Mapping[str, Any]) -> bool:
    """Whether a local file has the size and hash that a run listed."""
    return (
        path.is_file()
        and path.stat().st_size == entry["size"]
        and entry.get("sha256") in (None, files.sha256(path))
    )
