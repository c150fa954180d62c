"""NIfTI: in its own dtype, float32 where the header scales it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import nibabel as nib
import numpy as np

from minivess import files
from minivess.contracts import Spacing
from minivess.data.payload import Array, Volume, block, damaged, dtype_of, shape_of, voxels
from minivess.errors import DataError

FIRST, SECOND = 348, 540  # bytes of the headers of NIfTI-1 and NIfTI-2
HEADER_ERRORS = (nib.spatialimages.HeaderDataError, ValueError, KeyError, OverflowError)


def read(path: Path) -> Volume:
    """Read a `.nii` or `.nii.gz`."""
    packing = "gzip" if path.name.lower().endswith(".gz") else "raw"
    header, raw = _header(path, packing)
    shape = shape_of(path, header.get_data_shape())
    dtype = dtype_of(path, header.get_data_dtype())
    array = voxels(path, shape, dtype, skip=int(header.get_data_offset()), packing=packing)
    slope, inter = _scaling(path, header)
    if (slope, inter) != (1.0, 0.0):
        array = (array * slope + inter).astype(np.float32)
    spacing = cast(Spacing, tuple(float(step) for step in header.get_zooms()[:3]))
    return Volume(
        array,
        spacing,
        _unit(header),
        np.asarray(header.get_best_affine(), dtype=np.float64),
        spacing_known=1.0 not in spacing or _states_spacing(raw),
        forms_agree=_forms_agree(header),
    )


def write(path: Path, mask: Array, like: Volume, *, about: bytes) -> Path:
    """Write a mask (X, Y, Z) as uint8 with the geometry of `like`."""
    image = nib.Nifti1Image(np.asarray(mask, dtype=np.uint8), like.affine)
    image.header.set_zooms(like.spacing)
    image.header.set_xyzt_units(xyz=like.unit)
    image.header["descrip"] = about
    return files.write(path, lambda temporary: nib.save(image, temporary))


def about(path: Path) -> bytes:
    """What the header says that the file is; empty where it cannot be read."""
    try:
        header, _ = _header(path, "gzip" if path.name.lower().endswith(".gz") else "raw")
    except (DataError, OSError):
        return b""
    return bytes(header["descrip"].item())


def _header(path: Path, packing: str) -> tuple[Any, bytes]:
    """The header, mended as nibabel does, and its bytes as they are."""
    raw = block(path, FIRST, packing=packing).tobytes()
    try:
        if nib.Nifti1Header.may_contain_header(raw):
            return nib.Nifti1Header(raw), raw
        if raw[4:8] == b"n+2\0":
            raw = block(path, SECOND, packing=packing).tobytes()
            return nib.Nifti2Header(raw), raw
    # A damaged header fails in many ways: bad codes, sizes that overflow.
    except HEADER_ERRORS as error:
        raise damaged(path, f"cannot be read ({error})") from error
    raise damaged(path, "is no NIfTI volume")


def _scaling(path: Path, header: Any) -> tuple[float, float]:
    try:
        slope, inter = header.get_slope_inter()
    except nib.spatialimages.HeaderDataError as error:
        raise damaged(path, f"cannot be read ({error})") from error
    return 1.0 if slope is None else float(slope), 0.0 if inter is None else float(inter)


def _unit(header: Any) -> str:
    try:
        return str(header.get_xyzt_units()[0])
    except KeyError:  # a code that the standard does not define
        return "unknown"


def _forms_agree(header: Any) -> bool:
    """Whether sform and qform, where both are set, are one within a thousandth of a voxel."""
    try:
        sform, qform = header.get_sform(coded=True)[0], header.get_qform(coded=True)[0]
    except (ValueError, nib.spatialimages.HeaderDataError):  # a rotation that is none
        return False
    if sform is None or qform is None:
        return True
    step = np.abs(sform[:3, :3]).max()
    return bool(np.allclose(sform, qform, atol=1e-3 * max(float(step), 1e-12), rtol=1e-4))


def _states_spacing(raw: bytes) -> bool:
    """Whether the voxel size in the file is not 0, which nibabel silently makes 1."""
    kind: Any = nib.Nifti1Header if len(raw) == FIRST else nib.Nifti2Header
    return bool(np.all(kind(raw, check=False)["pixdim"][1:4] != 0))
