"""NRRD with attached voxels: raw, gzip or bzip2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from minivess import units
from minivess.contracts import Spacing
from minivess.formats import decode
from minivess.formats.decode import DimensionsError, Volume, file_error

PACKINGS = {"raw": "raw", "gzip": "gzip", "gz": "gzip", "bzip2": "bzip2", "bz2": "bzip2"}
TYPES = {
    "i1": ("signed char", "int8", "int8_t"), "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "signed long long int",
           "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",), "f8": ("double",),
}  # fmt: skip
GRID = ("domain", "space", "none", "???")  # kinds of axes along which voxels lie
# Spaces by their first two axes; the affine leads to right-anterior-superior.
TO_RAS = {
    "left-posterior-superior": (-1, -1, 1), "lps": (-1, -1, 1),
    "left-anterior-superior": (-1, 1, 1), "las": (-1, 1, 1),
}  # fmt: skip


def read(path: Path) -> Volume:
    """Read a `.nrrd`; a detached header is refused, because curation copies one file."""
    header, start = _header(path)
    shape = decode.check_shape(path, tuple(header.get("sizes", ())))
    odd = [kind for kind in header.get("kinds", ()) if str(kind).lower() not in GRID]
    if odd:
        raise DimensionsError(
            f"The file {path} has an axis of kind {odd[0]}; the axes of a volume are x, y and z.",
            remedy="store one 3-D volume with one value for each voxel in a file",
        )
    dtype = decode.check_dtype(path, _dtype(path, header))
    if "data file" in header or "datafile" in header:
        raise file_error(path, "is a header whose voxels lie in another file; store both in one")
    packing = PACKINGS.get(str(header.get("encoding", "raw")).lower())
    if packing is None:
        raise file_error(path, f"has the encoding {header['encoding']}; raw, gzip, bzip2 are read")
    skip = int(header.get("byte skip", header.get("byteskip", 0)))
    if skip < 0:  # raw voxels at the end of the file
        start = path.stat().st_size - int(np.prod(shape, dtype=object)) * dtype.itemsize
    array = decode.read_voxels(
        path, shape, dtype, start=max(start, 0), skip=max(skip, 0), packing=packing
    )
    spacing, unit, known, affine = _geometry(header)
    return Volume(array, spacing, unit, affine, spacing_known=known, placed="space" in header)


def stated_shape(path: Path) -> tuple[int, ...]:
    """Return the shape in the header of a `.nrrd`."""
    return tuple(int(size) for size in _header(path)[0].get("sizes", ()))


def _header(path: Path) -> tuple[Any, int]:
    import nrrd

    with path.open("rb") as stream:
        return nrrd.read_header(stream), stream.tell()


def _dtype(path: Path, header: Any) -> np.dtype[Any]:
    name = str(header.get("type", "")).lower()
    code = next((code for code, names in TYPES.items() if name in names), None)
    if code is None:
        raise file_error(path, f"has the type {name or 'nothing'}, which is none of numbers")
    return np.dtype(("<" if header.get("endian", "little") == "little" else ">") + code)


def _geometry(header: Any) -> tuple[Spacing, str, bool, npt.NDArray[np.float64]]:
    """Return spacing, its unit, whether the header states both, and the affine.

    A space without units is in millimetres, by the habit of medical tools.
    """
    words = list(header.get("space units") or header.get("units") or ())
    named = [word for word in words if str(word).strip()] if len(words) == 3 else []
    habit = "mm" if "space" in header and not named else ""
    factors, unit = units.common_unit(words if named else [habit] * 3)
    directions = np.asarray(header.get("space directions", ()), dtype=np.float64)
    affine = np.eye(4)
    if directions.shape == (3, 3) and np.isfinite(directions).all():
        flip = TO_RAS.get(str(header.get("space", "")).lower(), (1, 1, 1))
        affine[:3, :3] = directions.T
        affine[:3, 3] = np.nan_to_num(header.get("space origin", np.zeros(3)))
        affine[:3] *= (np.array(factors) * flip)[:, None]  # units are those of the space's axes
        steps, known = np.linalg.norm(affine[:3, :3], axis=0), True
    else:
        steps = np.asarray(header.get("spacings", ()), dtype=np.float64)
        known = steps.shape == (3,) and bool(np.isfinite(steps).all())
        steps = np.abs(steps) * factors if known else np.ones(3)
        affine[:3, :3] = np.diag(steps)
    return decode.spacing_of(steps), unit, known and (unit != units.UNKNOWN or not named), affine
