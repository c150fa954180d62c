"""A volume in memory, and its voxels from the bytes of a file; sizes are checked before."""

from __future__ import annotations

import bz2
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from isal import isal_zlib

from minivess.contracts import Shape, Spacing
from minivess.errors import DataError

Array = npt.NDArray[Any]
GZIP, ZLIB = 31, 15  # window bits, as zlib counts them
INFLATE_ERRORS = (OSError, EOFError, zlib.error, cast(type[Exception], isal_zlib.error))
# What one byte can become at most: deflate 1032, LZW about 1400, bzip2 45 bytes to 900,000.
MOST = {"raw": 1, "gzip": 1032, "zlib": 1032, "bzip2": 20_000}


class DimensionsError(DataError):
    """A file that is no 3-D volume."""


@dataclass(frozen=True)
class Volume:
    """Voxels (X, Y, Z) with their geometry; the affine leads to RAS, as NIfTI has it."""

    array: Array
    spacing: Spacing
    unit: str
    affine: npt.NDArray[np.float64]
    spacing_known: bool = True
    forms_agree: bool = True

    @property
    def shape(self) -> Shape:
        """Voxels along (x, y, z)."""
        return cast(Shape, self.array.shape)


def damaged(path: Path, problem: str) -> DataError:
    """The error for a file that cannot be used as it is."""
    return DataError(f"The file {path} {problem}.", remedy="replace the file or remove it")


def shape_of(path: Path, shape: tuple[int, ...]) -> Shape:
    """Three axes, each with a voxel; trailing axes of length one are dropped.

    Raises:
        DimensionsError: more or fewer axes. DataError: an empty axis.
    """
    trimmed = tuple(int(size) for size in shape)
    while len(trimmed) > 3 and trimmed[-1] == 1:
        trimmed = trimmed[:-1]
    if len(trimmed) != 3:
        raise DimensionsError(
            f"The file {path} is {len(trimmed)}-D {tuple(shape)}; volumes are 3-D.",
            remedy="store one 3-D volume (x, y, z) in a file; stack 2-D slices, split time points "
            "and channels",
        )
    if min(trimmed) < 1:
        raise damaged(path, f"has an empty axis, shape {tuple(shape)}")
    return trimmed


def dtype_of(path: Path, dtype: np.dtype[Any]) -> np.dtype[Any]:
    """A dtype of real numbers.

    Raises:
        DataError: colour, complex, or text.
    """
    if dtype.kind not in "iufb":
        raise DataError(
            f"The file {path} holds {dtype} values; volumes hold real numbers.",
            remedy="convert colour or complex data to one grey value per voxel",
        )
    return dtype


def voxels(path: Path, shape: Shape, dtype: np.dtype[Any], **where: Any) -> Array:
    """Voxels in native byte order, from a block of the file whose first axis runs fastest."""
    size = math.prod(shape) * dtype.itemsize
    data = block(path, size, **where)
    flat = np.frombuffer(data, dtype=dtype, offset=len(data) - size)
    return flat.reshape(shape, order="F").astype(dtype.newbyteorder("="), copy=False)


def block(path: Path, size: int, *, start: int = 0, skip: int = 0, packing: str = "raw") -> bytes:
    """`skip + size` bytes, unpacked, from byte `start` of the file on.

    Raises:
        DataError: fewer bytes are there than promised, or they are damaged.
    """
    there = max(path.stat().st_size - start, 0)
    if skip + size > there * MOST[packing]:
        raise damaged(path, f"is truncated: its header promises {size} bytes of voxels")
    try:
        with path.open("rb") as stream:
            stream.seek(start)
            if packing == "raw":
                data = stream.read(skip + size)
            else:
                data = UNPACK[packing](stream.read(), skip + size)
    except INFLATE_ERRORS as error:
        raise damaged(path, f"is truncated or damaged ({error})") from error
    if len(data) < skip + size:
        raise damaged(
            path, f"is truncated: {max(len(data) - skip, 0)} of {size} bytes of voxels are there"
        )
    return data


def _inflate(bits: int) -> Callable[[bytes, int], bytes]:
    def inflate(packed: bytes, size: int) -> bytes:
        """At most `size` bytes; with checksum where the stream ends there."""
        parts, missing = [], size
        while packed and missing > 0:
            stream = isal_zlib.decompressobj(bits)
            parts.append(stream.decompress(packed, missing))
            missing -= len(parts[-1])
            # One byte more makes the stream come to its end, and its checksum be compared.
            if not stream.eof and not stream.decompress(stream.unconsumed_tail, 1):
                _ended(stream.eof)
            packed = stream.unused_data.lstrip(b"\0") if stream.eof else b""
        return parts[0] if len(parts) == 1 else b"".join(parts)

    return inflate


def _ended(whole: bool) -> None:
    if not whole:
        message = "the stream stops before its end"
        raise EOFError(message)


def _bunzip(packed: bytes, size: int) -> bytes:
    return bz2.BZ2Decompressor().decompress(packed, size)


UNPACK = {"gzip": _inflate(GZIP), "zlib": _inflate(ZLIB), "bzip2": _bunzip}
