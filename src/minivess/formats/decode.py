"""The volume in memory, and voxels decoded from a file after their sizes are checked."""

from __future__ import annotations

import bz2
import io
import math
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt
import psutil
from isal import isal_zlib

from minivess.contracts import Shape, Spacing
from minivess.errors import DataError

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]
Remarks = tuple[tuple[str, str], ...]  # code of a check, and what the reader noticed
PACKED, UNPACKED = 1 << 18, 1 << 20  # bytes that are inflated at once
GZIP, ZLIB = 31, 15  # window bits, as zlib counts them
INFLATE_ERRORS = (OSError, EOFError, zlib.error, cast(type[Exception], isal_zlib.error))
# What one byte can become at most: deflate 1032, LZW about 1400, bzip2 45 bytes to 900,000.
MOST = {"raw": 1, "gzip": 1032, "zlib": 1032, "bzip2": 20_000}


class DimensionsError(DataError):
    """A file that is not a 3-D volume."""

    code = "wrong_dimensions"
    shape: tuple[int, ...] = ()
    """Of the file, where it is an array of other than three axes."""


class LabelError(DataError):
    """A label whose values are not class numbers."""

    code = "label_values"


@dataclass(frozen=True)
class Volume:
    """Voxels (X, Y, Z) with their geometry; the affine maps indices to RAS, as in NIfTI.

    `placed` says whether the file states where its grid lies, `alone` whether it holds all that
    is known of the volume.
    """

    array: Array
    spacing: Spacing
    unit: str
    affine: npt.NDArray[np.float64]
    spacing_known: bool = True
    placed: bool = True
    alone: bool = True
    remarks: Remarks = ()

    @property
    def shape(self) -> Shape:
        """Voxels along (x, y, z)."""
        return cast(Shape, self.array.shape)


def file_error(path: Path, problem: str) -> DataError:
    """Return the error for a file that cannot be used as it is."""
    return DataError(f"The file {path} {problem}.", remedy="replace the file or remove it")


def check_shape(path: Path, shape: tuple[int, ...]) -> Shape:
    """Return the shape with three axes; trailing axes of length one are dropped.

    Raises:
        DimensionsError: more or fewer axes. DataError: an empty axis.
    """
    trimmed = tuple(int(size) for size in shape)
    while len(trimmed) > 3 and trimmed[-1] == 1:
        trimmed = trimmed[:-1]
    if len(trimmed) != 3:
        error = DimensionsError(
            f"The file {path} is {len(trimmed)}-D {trimmed}; volumes are 3-D.",
            remedy="store one 3-D volume (x, y, z) in a file; stack 2-D slices, split time points "
            "and channels",
        )
        error.shape = trimmed
        raise error
    if min(trimmed) < 1:
        raise file_error(path, f"has an empty axis, shape {trimmed}")
    return trimmed


def is_invertible(affine: npt.NDArray[np.float64]) -> bool:
    """Whether an affine is finite and invertible."""
    return bool(np.isfinite(affine).all() and np.linalg.det(affine[:3, :3]))


def spacing_of(steps: Iterable[float]) -> Spacing:
    """Return three voxel sizes as plain floats."""
    x, y, z = map(float, steps)
    return x, y, z


def check_dtype(path: Path, dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype if it is one of real numbers.

    Raises:
        DataError: colour, complex, or text.
    """
    if dtype.kind not in "iufb":
        raise DataError(
            f"The file {path} holds {dtype} values; volumes hold real numbers.",
            remedy="convert colour or complex data to one grey value per voxel",
        )
    return dtype


def read_voxels(path: Path, shape: Shape, dtype: np.dtype[Any], **where: Any) -> Array:
    """Read voxels in native byte order from a block in which the first axis varies fastest."""
    size = math.prod(shape) * dtype.itemsize
    flat = read_block(path, size, **where)[-size:].view(dtype)
    return flat.reshape(shape, order="F").astype(dtype.newbyteorder("="), copy=False)


def check_size(path: Path, promised: int, *, most: int, unpacked: int) -> None:
    """Refuse more voxels than the bytes of a file can hold, or than fit into memory."""
    if promised > most:
        raise file_error(path, f"is truncated: its header promises {promised} bytes of voxels")
    if unpacked > psutil.virtual_memory().available:
        raise file_error(path, f"needs {unpacked} bytes of memory, more than are free")


def read_block(
    path: Path, size: int, *, start: int = 0, skip: int = 0, packing: str = "raw"
) -> Bytes:
    """Read `skip + size` bytes, decompressed, from byte `start` of the file on.

    Raises:
        DataError: fewer bytes are there than promised, or they are damaged.
    """
    there = max(path.stat().st_size - start, 0)
    check_size(path, size, most=there * MOST[packing] - skip, unpacked=size)
    # Aligned for a view as any number, whatever the header's length is.
    data = np.empty(skip + size + -skip % 16, dtype=np.uint8)[-skip % 16 :]
    try:
        with path.open("rb") as stream:
            stream.seek(start)
            filled = FILL[packing](stream, data)
    except INFLATE_ERRORS as error:
        raise file_error(path, f"is truncated or damaged ({error})") from error
    if filled < data.size:
        raise file_error(
            path, f"is truncated: {max(filled - skip, 0)} of {size} bytes of voxels are there"
        )
    return data


def _read(stream: BinaryIO, into: Bytes) -> int:
    return cast(io.BufferedReader, stream).readinto(cast(Any, into))


def _inflate(bits: int) -> Callable[[BinaryIO, Bytes], int]:
    def inflate(stream: BinaryIO, into: Bytes) -> int:
        """Fill `into`; the checksum is compared where a packed stream ends there.

        Small pieces stay in the cache: faster than one call for all.
        """
        filled, packed = 0, stream.read(PACKED)
        while packed and filled < into.size:  # several streams may follow each other
            unpacker = isal_zlib.decompressobj(bits)
            while filled < into.size and not unpacker.eof:
                part = unpacker.decompress(packed, min(into.size - filled, UNPACKED))
                into[filled : filled + len(part)] = np.frombuffer(part, dtype=np.uint8)
                filled += len(part)
                packed = _more(unpacker, stream, stuck=not part and not packed)
            while not unpacker.eof and not unpacker.decompress(packed, 1):
                packed = _more(unpacker, stream, stuck=not packed)
            packed = (unpacker.unused_data.lstrip(b"\0") or stream.read(PACKED)).lstrip(b"\0")
        return filled

    return inflate


def _more(unpacker: Any, stream: BinaryIO, *, stuck: bool) -> bytes:
    """The next packed bytes."""
    if stuck and not unpacker.eof:
        message = "the stream stops before its end"
        raise EOFError(message)
    return b"" if unpacker.eof else unpacker.unconsumed_tail or stream.read(PACKED)


def _bunzip(stream: BinaryIO, into: Bytes) -> int:
    data = bz2.BZ2Decompressor().decompress(stream.read(), into.size)
    into[: len(data)] = np.frombuffer(data, dtype=np.uint8)
    return len(data)


FILL: dict[str, Callable[[BinaryIO, Bytes], int]] = {
    "raw": _read, "gzip": _inflate(GZIP), "zlib": _inflate(ZLIB), "bzip2": _bunzip,
}  # fmt: skip
