"""One volume on disk: NIfTI in, arrays with their geometry out, masks back.

Axes are (X, Y, Z). Arrays keep the dtype of the file; raw spacing and unit are kept as written.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import nibabel as nib
import numpy as np
import numpy.typing as npt
from isal import igzip, isal_zlib

from minivess import files
from minivess.config import ResamplingConfig
from minivess.contracts import Case, Shape, Spacing
from minivess.data.filenames import SUFFIXES
from minivess.data.resampling import resample
from minivess.errors import DataError

Array = npt.NDArray[Any]
UNKNOWN = 255  # no class index: classes are counted from 0 and are fewer
DEFLATE_LIMIT = 1032  # deflate cannot pack more bytes into one
INFLATE_ERRORS = (OSError, EOFError, zlib.error, cast(type[Exception], isal_zlib.error))
HEADER_ERRORS = (*INFLATE_ERRORS, ValueError, KeyError)


class DimensionsError(DataError):
    """A file that is no 3-D volume."""


@dataclass(frozen=True)
class Volume:
    """Voxels (X, Y, Z) with their geometry."""

    array: Array
    spacing: Spacing
    unit: str
    affine: npt.NDArray[np.float64]

    @property
    def shape(self) -> Shape:
        """Voxels along (x, y, z)."""
        return cast(Shape, self.array.shape)


def read(path: Path) -> Volume:
    """Read a NIfTI volume in its own dtype, float32 where the header scales it.

    Raises:
        DataError: missing, unreadable, truncated, not 3-D, or not numbers; the file is named.
    """
    image = _open(path)
    shape = _shape(path, image.shape)
    proxy = image.dataobj
    dtype = _dtype(path, proxy.dtype)
    data = _payload(path, int(proxy.offset), math.prod(shape) * dtype.itemsize)
    array = np.frombuffer(data, dtype=dtype, offset=int(proxy.offset), count=math.prod(shape))
    array = array.reshape(shape, order="F").astype(dtype.newbyteorder("="), copy=False)
    slope, inter = float(proxy.slope), float(proxy.inter)
    if (slope, inter) != (1.0, 0.0):
        array = (array * slope + inter).astype(np.float32)
    spacing = cast(Spacing, tuple(float(step) for step in image.header.get_zooms()[:3]))
    return Volume(array, spacing, _unit(image), np.asarray(image.affine, dtype=np.float64))


def load(
    case: Case, *, label_map: dict[int, int], resampling: ResamplingConfig
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8] | None, Volume]:
    """Read a case as networks see it: image (1, X, Y, Z), label (X, Y, Z), their geometry.

    Values that `label_map` does not name stay. Nothing is resampled unless asked for.

    Raises:
        DataError: a file cannot be read, or the label does not fit the image.
    """
    volume = read(case.image)
    label = None if case.label is None else read_label(case.label, label_map)
    if label is not None and label.shape != volume.shape:
        raise DataError(
            f"The label {case.label} has shape {label.shape}, but its image {case.image} has "
            f"{volume.shape}.",
            remedy="correct or remove the pair; `minivess profile` quarantines it",
        )
    image: Array = np.array(volume.array, dtype=np.float32, order="C")  # writable, for torch
    if resampling.enabled:
        image, label = resample(image, label, volume.spacing, resampling)
        volume = _regridded(volume, image)
    return image[np.newaxis], label, volume


def read_label(path: Path, label_map: dict[int, int]) -> npt.NDArray[np.uint8]:
    """Read a label as classes (X, Y, Z).

    Raises:
        DataError: values that are no whole numbers, or outside 0..255 after the map.
    """
    values = whole(read(path).array, path)
    classes = relabel(values, label_map)
    low, high = (int(classes.min()), int(classes.max()))
    if low < 0 or high > 255:
        bad = low if low < 0 else high
        raise DataError(
            f"The label {path} holds the value {bad}; classes lie between 0 and 255.",
            remedy=f"data.label_map.{bad}=1",
        )
    return np.array(classes, dtype=np.uint8, order="C")


def whole(array: Array, path: Path) -> Array:
    """An integer view of label values, whatever the dtype of the file.

    Raises:
        DataError: some value is no whole number.
    """
    if array.dtype.kind in "iub":
        return array.astype(np.uint8) if array.dtype.kind == "b" else array
    with np.errstate(invalid="ignore"):
        rounded = np.rint(array)
        exact = bool(np.isfinite(array).all()) and bool(np.array_equal(rounded, array))
    if not exact:
        raise DataError(
            f"The label {path} holds values that are no whole numbers.",
            remedy="store class numbers (0, 1, ...) in label files; data.label names the pattern "
            "if an image was taken for a label",
        )
    return rounded.astype(np.int64)


def relabel(values: Array, label_map: dict[int, int]) -> Array:
    """Replace label values; all at once, so that {1: 2, 2: 1} swaps."""
    if not label_map:
        return values
    result = values.astype(np.int64)
    for old, new in label_map.items():
        result[values == old] = new
    return result


def class_indices(
    label: npt.NDArray[np.uint8], classes: Sequence[int], case: str
) -> npt.NDArray[np.uint8]:
    """Label values -> their positions in `classes`.

    Raises:
        DataError: a value that is not among the classes.
    """
    table = np.full(256, UNKNOWN, dtype=np.uint8)
    table[list(classes)] = np.arange(len(classes), dtype=np.uint8)
    indices = table[label]
    if (indices == UNKNOWN).any():
        strange = int(label[indices == UNKNOWN][0])
        raise DataError(
            f"The label of {case} holds {strange}, which is none of the classes {tuple(classes)}.",
            remedy=f"map it, for example data.label_map.{strange}=1, and profile again",
        )
    return np.ascontiguousarray(indices)


def write_mask(path: Path, mask: Array, like: Volume) -> Path:
    """Write a mask (X, Y, Z) as uint8 NIfTI with the geometry of `like`.

    Raises:
        DataError: the mask has another shape than `like`, or the name is no NIfTI name.
    """
    if mask.shape != like.shape or not path.name.endswith(SUFFIXES):
        raise DataError(
            f"A mask of shape {mask.shape} cannot be written to {path} for a volume of shape "
            f"{like.shape}.",
            remedy="give a mask of the volume's shape and a file name ending in .nii.gz",
        )
    image = nib.Nifti1Image(np.asarray(mask, dtype=np.uint8), like.affine)
    image.header.set_zooms(like.spacing)
    image.header.set_xyzt_units(xyz=like.unit)
    return files.write(path, lambda temporary: nib.save(image, temporary))


# --- reading ------------------------------------------------------------------------------


def _open(path: Path) -> Any:
    try:
        return nib.load(path)
    except FileNotFoundError as error:
        raise DataError(
            f"There is no file {path}.", remedy="run `minivess profile` again, it pairs files anew"
        ) from error
    except PermissionError as error:
        raise DataError(f"The file {path} may not be read.", remedy=f"chmod u+r {path}") from error
    # A damaged header fails in many ways: bad magic, bad codes, inflate errors, short reads.
    except (nib.filebasedimages.ImageFileError, nib.spatialimages.HeaderDataError) as error:
        raise _damaged(path, "is no NIfTI volume") from error
    except HEADER_ERRORS as error:
        raise _damaged(path, f"cannot be read ({error})") from error


def _damaged(path: Path, problem: str) -> DataError:
    return DataError(f"The file {path} {problem}.", remedy="replace the file or remove it")


def _shape(path: Path, shape: tuple[int, ...]) -> Shape:
    trimmed = shape
    while len(trimmed) > 3 and trimmed[-1] == 1:
        trimmed = trimmed[:-1]
    if len(trimmed) != 3:
        raise DimensionsError(
            f"The file {path} is {len(trimmed)}-D {tuple(shape)}; volumes are 3-D.",
            remedy="store one 3-D volume (x, y, z) in a file; stack 2-D slices, split time points",
        )
    if min(trimmed) < 1:
        raise _damaged(path, f"has an empty axis, shape {tuple(shape)}")
    return cast(Shape, tuple(int(size) for size in trimmed))


def _dtype(path: Path, dtype: np.dtype[Any]) -> np.dtype[Any]:
    if dtype.kind not in "iufb":
        raise DataError(
            f"The file {path} holds {dtype} values; volumes hold real numbers.",
            remedy="convert colour or complex data to one grey value per voxel",
        )
    return dtype


def _payload(path: Path, offset: int, size: int) -> bytes:
    """The file's bytes, inflated; sizes are compared before memory is taken."""
    packed = path.name.endswith(".gz")
    on_disk = path.stat().st_size
    if offset + size > on_disk * (DEFLATE_LIMIT if packed else 1):
        raise _damaged(path, f"is truncated: its header promises {size} bytes of voxels")
    try:
        with igzip.open(path) if packed else path.open("rb") as stream:
            data = cast(bytes, stream.read(offset + size))
    except INFLATE_ERRORS as error:
        raise _damaged(path, f"is truncated or damaged ({error})") from error
    if len(data) < offset + size:
        raise _damaged(
            path, f"is truncated: {len(data) - offset} of {size} bytes of voxels are there"
        )
    return data


def _unit(image: Any) -> str:
    try:
        return str(image.header.get_xyzt_units()[0])
    except KeyError:  # a code that the standard does not define
        return "unknown"


def _regridded(volume: Volume, image: Array) -> Volume:
    """The geometry of a grid that covers the same box with other voxels."""
    scale = np.array(volume.shape) / np.array(image.shape)
    step = np.diag([*scale, 1.0])
    step[:3, 3] = (scale - 1) / 2
    spacing = cast(Spacing, tuple(float(v) for v in np.array(volume.spacing) * scale))
    return Volume(image, spacing, volume.unit, volume.affine @ step)
