"""Probabilities of networks on volumes that they have not seen, kept packed under a disk budget.

Everything is computed from the packed form, whether it was read or has just been predicted, so
deleting these files costs time and changes no result. A file is whole: every reader takes a volume.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minivess import files
from minivess.combination import Packed, Probabilities, pack

SUFFIX = ".npy.gz"


@dataclass(frozen=True)
class KeptProbabilities:
    """A folder of packed probabilities by content key.

    Attributes:
        budget: bytes on disk; above it the files that were used longest ago are deleted.
    """

    folder: Path
    budget: int

    def get(self, key: str, predict: Callable[[], Probabilities]) -> Packed:
        """Return packed probabilities, predicted unless a whole file holds them."""
        path = self.folder / f"{key}{SUFFIX}"
        found = _read(path)
        if found is None:
            found = pack(predict())
            files.write(path, lambda target: _write(target, found))
            self._trim()
        else:
            os.utime(path)
        return found

    def _trim(self) -> None:
        entries = sorted(
            (entry.stat().st_mtime_ns, entry.stat().st_size, entry.path)
            for entry in os.scandir(self.folder)
            if entry.name.endswith(SUFFIX)
        )
        excess = sum(size for _, size, _ in entries) - self.budget
        for _, size, path in entries:
            if excess <= 0:
                return
            Path(path).unlink(missing_ok=True)
            excess -= size


def _write(path: Path, packed: Packed) -> None:
    from isal import igzip

    with igzip.open(path, "wb", compresslevel=2) as stream:
        np.save(stream, packed)


def _read(path: Path) -> Packed | None:
    """The packed volume; None if the file is absent or damaged, which its checksum tells."""
    from isal import igzip, igzip_lib

    try:
        with igzip.open(path, "rb") as stream:
            found: Packed = np.load(stream)
    except (OSError, EOFError, ValueError, igzip_lib.IsalError):  # type: ignore[misc]
        return None
    return found
