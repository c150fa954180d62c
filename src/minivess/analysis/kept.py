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
import numpy.typing as npt

from minivess import files, inference

Probabilities = npt.NDArray[np.float32]
Packed = npt.NDArray[np.uint8]
LARGEST = 255
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


def pack(probabilities: Probabilities) -> Packed:
    """Round (C, X, Y, Z) to 255 steps without changing the most likely class of any voxel.

    Two classes are held as the second alone, (1, X, Y, Z).
    """
    packed: Packed = np.rint(probabilities * LARGEST).astype(np.uint8)
    likely = inference.mask(probabilities)
    if len(packed) == 2:
        second = packed[1]
        np.clip(second, LARGEST // 2 + 1, None, out=second, where=likely == 1)
        np.clip(second, None, LARGEST // 2, out=second, where=likely == 0)
        return packed[1:]
    tied = np.nonzero(packed.argmax(axis=0) != likely)
    packed[(likely[tied], *tied)] += 1
    return packed


def unpack(packed: Packed) -> Probabilities:
    """Return probabilities (C, X, Y, Z) of a packed volume."""
    whole = np.concatenate([LARGEST - packed, packed]) if len(packed) == 1 else packed
    return whole.astype(np.float32) / np.float32(LARGEST)


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
