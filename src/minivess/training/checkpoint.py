"""Write checkpoints atomically (temporary file, rename, previous one kept) and load them.

A checkpoint is a zip file, and the checksum (CRC-32) of each of its records is verified before
anything in it is used.
"""

from __future__ import annotations

import logging
import zipfile
from pathlib import Path
from typing import Any

import torch

from minivess import files
from minivess.training.cell_folder import PREVIOUS

log = logging.getLogger(__name__)
Stored = dict[str, Any]


def save(path: Path, state: Stored, *, keep_previous: bool = False) -> Path:
    """Write `state` (tensors, numbers, text and containers of these) as a whole or not at all.

    With `keep_previous` the file it replaces stays as `.prev`. Between the two renames only
    `.prev` exists, which `load` then finds.
    """

    def fill(temporary: Path) -> None:
        torch.save(state, temporary)
        if keep_previous and path.exists():
            files.sync(temporary)
            path.replace(previous(path))

    return files.write(path, fill)


def load(path: Path) -> Stored | None:
    """The newest whole state: of `path`, else of its `.prev`, else None."""
    for candidate in (path, previous(path)):
        if not candidate.exists():
            continue
        if whole(candidate):
            state: Stored = torch.load(candidate, map_location="cpu", weights_only=True)
            return state
        log.warning("The checkpoint %s is torn and is removed.", candidate)
        candidate.unlink()
    return None


def whole(path: Path) -> bool:
    """Whether every record in the file has the bytes that were written."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, EOFError, zipfile.BadZipFile):
        return False


def previous(path: Path) -> Path:
    """Where the file before this one is kept."""
    return path.with_name(path.name + PREVIOUS)
