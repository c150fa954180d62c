"""NIfTI: in its own dtype, float32 where the header scales it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import nibabel as nib
import numpy as np

from minivess import files
from minivess.contracts import Spacing
from minivess.data.payload import (
    INFLATE_ERRORS,
    Array,
    Volume,
    damaged,
    dtype_of,
    shape_of,
    voxels,
)

HEADER_ERRORS = (*INFLATE_ERRORS, ValueError, KeyError, OverflowError)


def read(path: Path) -> Volume:
    """Read a `.nii` or `.nii.gz`."""
    image = _open(path)
    shape = shape_of(path, image.shape)
    proxy = image.dataobj
    packing = "gzip" if path.name.endswith(".gz") else "raw"
    array = voxels(
        path, shape, dtype_of(path, proxy.dtype), skip=int(proxy.offset), packing=packing
    )
    slope, inter = float(proxy.slope), float(proxy.inter)
    if (slope, inter) != (1.0, 0.0):
        array = (array * slope + inter).astype(np.float32)
    spacing = cast(Spacing, tuple(float(step) for step in image.header.get_zooms()[:3]))
    affine = np.asarray(image.affine, dtype=np.float64)
    return Volume(
        array,
        spacing,
        _unit(image),
        affine,
        spacing_known=1.0 not in spacing or _states_spacing(path),
        forms_agree=_forms_agree(image.header),
    )


def write(path: Path, mask: Array, like: Volume) -> Path:
    """Write a mask (X, Y, Z) as uint8 with the geometry of `like`."""
    image = nib.Nifti1Image(np.asarray(mask, dtype=np.uint8), like.affine)
    image.header.set_zooms(like.spacing)
    image.header.set_xyzt_units(xyz=like.unit)
    return files.write(path, lambda temporary: nib.save(image, temporary))


def _open(path: Path) -> Any:
    try:
        return nib.load(path)
    # A damaged header fails in many ways: bad magic, bad codes, inflate errors, short reads.
    except (nib.filebasedimages.ImageFileError, nib.spatialimages.HeaderDataError) as error:
        raise damaged(path, "is no NIfTI volume") from error
    except (FileNotFoundError, PermissionError):
        raise
    except HEADER_ERRORS as error:
        raise damaged(path, f"cannot be read ({error})") from error


def _unit(image: Any) -> str:
    try:
        return str(image.header.get_xyzt_units()[0])
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


def _states_spacing(path: Path) -> bool:
    """Whether the voxel size in the file is not 0, which nibabel silently makes 1."""
    with nib.openers.ImageOpener(str(path)) as stream:
        raw = stream.read(348)
    try:
        pixdim = nib.Nifti1Header(raw, check=False)["pixdim"]
    except nib.spatialimages.HeaderDataError:  # NIfTI-2 and Analyze are left as nibabel has them
        return True
    return bool(np.all(pixdim[1:4] != 0))
