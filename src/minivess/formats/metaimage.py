"""MetaImage (.mha): a text header, then voxels, raw or zlib."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from minivess import units
from minivess.formats.decode import (
    DimensionsError,
    Volume,
    check_shape,
    file_error,
    read_voxels,
    spacing_of,
)

LONGEST_HEADER = 1 << 16
TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4",
    "MET_UINT": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}  # fmt: skip
TURNS = ("transformmatrix", "rotation", "orientation")
OFFSETS = ("offset", "position", "origin")
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def read(path: Path) -> Volume:
    """Read a `.mha`; lengths are millimetres unless `DistanceUnits` names another unit."""
    header, start = _header(path)
    try:
        shape = check_shape(path, _sizes(header))
        channels = int(header.get("elementnumberofchannels", "1"))
        dtype = np.dtype(TYPES[header["elementtype"].upper()])
        spacing = _numbers(header.get("elementspacing", header.get("elementsize", "1 1 1")), 3)
        turn = _numbers(_first(header, TURNS, "1 0 0 0 1 0 0 0 1"), 9).reshape(3, 3)
        offset = _numbers(_first(header, OFFSETS, "0 0 0"), 3)
        np.linalg.inv(turn)
    except (KeyError, ValueError, np.linalg.LinAlgError) as error:
        raise file_error(path, f"has a damaged header ({error})") from error
    if channels != 1:
        raise DimensionsError(
            f"The file {path} holds {channels} values for each voxel; volumes hold one.",
            remedy="store one channel in a file",
        )
    big = header.get("binarydatabyteordermsb", header.get("elementbyteordermsb", "")).lower()
    dtype = dtype.newbyteorder(">" if big == "true" else "<")
    packing = "zlib" if header.get("compresseddata", "").lower() == "true" else "raw"
    array = read_voxels(path, shape, dtype, start=start, packing=packing)
    (factor, *_), unit = units.common_unit([header.get("distanceunits") or "mm"] * 3)
    steps = spacing_of(spacing * factor)
    affine = np.eye(4)
    affine[:3, :3] = turn.T * steps  # each row of the matrix is an axis' direction
    affine[:3, 3] = offset * factor
    known = unit != units.UNKNOWN and bool({"elementspacing", "elementsize"} & header.keys())
    unit = unit if known else units.UNKNOWN
    return Volume(array, steps, unit, LPS_TO_RAS @ affine, spacing_known=known)


def stated_shape(path: Path) -> tuple[int, ...]:
    """Return the shape in the header of a `.mha`."""
    return _sizes(_header(path)[0])


def _sizes(header: dict[str, str]) -> tuple[int, ...]:
    return tuple(int(size) for size in header["dimsize"].split())


def _first(header: dict[str, str], keys: tuple[str, ...], default: str) -> str:
    """Return the value of the first synonym that the header has."""
    return next((header[key] for key in keys if key in header), default)


def _header(path: Path) -> tuple[dict[str, str], int]:
    """Return the header with keys in lower case, and the offset of the voxels."""
    header: dict[str, str] = {}
    with path.open("rb") as stream:
        while stream.tell() < LONGEST_HEADER:
            line = stream.readline(LONGEST_HEADER)
            key, equals, value = line.decode("latin-1").partition("=")
            if not equals:
                break
            header[key.strip().lower()] = value.strip()
            if key.strip() == "ElementDataFile":
                if header["elementdatafile"].upper() != "LOCAL":
                    raise file_error(path, "is a header whose voxels lie in another file")
                return header, stream.tell()
    raise file_error(path, "is no MetaImage")


def _numbers(text: str, n: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    numbers = np.array([float(word) for word in text.split()])
    if numbers.size != n or not np.isfinite(numbers).all():
        message = f"{n} numbers are needed, not {text!r}"
        raise ValueError(message)
    return numbers
