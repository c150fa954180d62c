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
    return Volume(array, spacing, _unit(image), np.asarray(image.affine, dtype=np.float64))


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
