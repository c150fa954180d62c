"""Volumes on disk: read from any format with their geometry, masks written as NIfTI.

Axes are (X, Y, Z). Arrays keep the dtype of the file; raw spacing and unit are kept as written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from minivess import files
from minivess.config import ResamplingConfig
from minivess.contracts import IGNORED, Case, LabelMap
from minivess.errors import DataError, MinivessError
from minivess.formats import metaimage, nifti, nrrd, tiff
from minivess.formats.decode import Array as Array
from minivess.formats.decode import DimensionsError as DimensionsError
from minivess.formats.decode import LabelError as LabelError
from minivess.formats.decode import Volume as Volume
from minivess.formats.decode import file_error, spacing_of
from minivess.formats.filenames import NIFTI, SUFFIXES, suffix
from minivess.formats.resampling import resample

OWN_MASK = "mask by minivess of"
ROUNDED = 1e-3  # label values this near to a whole number are that number
READERS: dict[str, Callable[[Path], Volume]] = {
    **dict.fromkeys((*NIFTI, ".hdr"), nifti.read),
    **dict.fromkeys((".ome.tiff", ".ome.tif", ".tiff", ".tif"), tiff.read),
    ".nrrd": nrrd.read,
    ".mha": metaimage.read,
}
SHAPES: dict[str, Callable[[Path], tuple[int, ...]]] = {
    **dict.fromkeys((*NIFTI, ".hdr"), nifti.stated_shape),
    **dict.fromkeys((".ome.tiff", ".ome.tif", ".tiff", ".tif"), tiff.stated_shape),
    ".nrrd": nrrd.stated_shape,
    ".mha": metaimage.stated_shape,
}
Read = TypeVar("Read")


def read_volume(path: Path) -> Volume:
    """Read a volume in its own dtype, by the reader of its suffix.

    Raises:
        DataError: missing, unreadable, truncated, not 3-D, or not numbers; the file is named.
    """
    return _read(path, READERS)


def _read(path: Path, readers: Mapping[str, Callable[[Path], Read]]) -> Read:
    reader = readers.get(suffix(path))
    if reader is None:
        raise file_error(path, f"has none of the suffixes {' '.join(SUFFIXES)}")
    try:
        if problem := files.emptiness(path):
            raise file_error(path, problem)
        return reader(path)
    except FileNotFoundError as error:
        raise DataError(
            f"There is no file {path}.", remedy="run `minivess profile` again, it pairs files anew"
        ) from error
    except PermissionError as error:
        raise DataError(f"The file {path} may not be read.", remedy=f"chmod u+r {path}") from error
    except (MemoryError, OSError) as error:
        raise file_error(
            path, f"cannot be read ({error or 'memory is too small for it'})"
        ) from error
    except MinivessError:
        raise
    except Exception as error:  # a library that meets what it does not expect: this file alone
        raise file_error(path, f"cannot be read ({type(error).__name__}: {error})") from error


def header_shape(path: Path) -> tuple[int, ...]:
    """Return the shape that a file's header states, before any voxel is decoded.

    Raises:
        DataError: as `read_volume`, of what the header alone shows.
    """
    return _read(path, SHAPES)


def load(
    case: Case, *, label_map: LabelMap, resampling: ResamplingConfig
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8] | None, Volume]:
    """Read a case as networks see it: image (1, X, Y, Z), label (X, Y, Z), their geometry.

    Args:
        case: `label` None gives None in place of the label.
        label_map: label value -> class; values that it does not name stay.
        resampling: disabled by default, so that voxels stay as stored.

    Raises:
        DataError: a file cannot be read, or the label does not fit the image.
    """
    volume = read_volume(case.image)
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


def read_label(path: Path, label_map: LabelMap) -> npt.NDArray[np.uint8]:
    """Read a label as classes (X, Y, Z), IGNORED where it is not annotated.

    Raises:
        DataError: values that are no whole numbers, or no class after the map.
    """
    classes = classes_of(read_volume(path).array, path, label_map)
    low, high = (int(classes.min()), int(classes.max()))
    if low < 0 or high > IGNORED - (IGNORED not in label_map.values()):
        bad = low if low < 0 else high
        raise DataError(
            f"The label {path} holds the value {bad}; classes lie between 0 and {IGNORED - 1}.",
            remedy=f"data.label_map.{bad}=1",
        )
    return np.array(classes, dtype=np.uint8, order="C")


def classes_of(array: Array, path: Path, label_map: LabelMap) -> Array:
    """Return the values of a label file after the label map, which names ignored values.

    Raises:
        LabelError: values that are no whole numbers, or one that stands for ignored voxels.
    """
    values = whole_numbers(array, path)
    named = {IGNORED, "*"} & label_map.keys() or IGNORED not in label_map.values()
    if not named and (values == IGNORED).any():
        raise LabelError(
            f"The label {path} holds {IGNORED} beside the ignored value.",
            remedy=f"data.label_map.{IGNORED}=1, or the class that it stands for",
        )
    return apply_label_map(values, label_map)


def whole_numbers(array: Array, path: Path) -> Array:
    """Return label values as integers, whatever the dtype of the file.

    Raises:
        LabelError: some value is no whole number.
    """
    if array.dtype.kind in "iub":
        return array.astype(np.uint8) if array.dtype.kind == "b" else array
    with np.errstate(invalid="ignore"):
        rounded = np.rint(array)
        off = ~(np.abs(rounded - array) <= ROUNDED)  # infinities and NaN among them
    if off.any():
        raise LabelError(
            f"The label {path} holds {array[off][0]:g}, which is no whole number.",
            remedy="store class numbers (0, 1, ...) in label files: probabilities need a threshold "
            "first; data.label='<pattern of the label files>' if an image was taken for a label",
        )
    return rounded.astype(np.int64)


def apply_label_map(values: Array, label_map: LabelMap) -> Array:
    """Replace label values; all at once, so that {1: 2, 2: 1} swaps."""
    if not label_map:
        return values
    if values.dtype == np.uint8 and all(0 <= new <= 255 for new in label_map.values()):
        table: Array = apply_label_map(np.arange(256), label_map).astype(np.uint8)
        return table[values]
    result: Array
    if "*" in label_map:
        result = (values != 0).astype(np.uint8) * np.uint8(label_map["*"])
    else:  # ids of 64 bits do not fit int64
        result = values.copy() if values.dtype == np.uint64 else values.astype(np.int64)
    for old, new in label_map.items():
        if old != "*":
            result[values == old] = new
    return result


def class_indices(
    label: npt.NDArray[np.uint8], classes: Sequence[int], case: str
) -> npt.NDArray[np.uint8]:
    """Map label values to their positions in `classes`; IGNORED stays.

    Raises:
        DataError: a value that is not among the classes.
    """
    table = np.full(256, IGNORED, dtype=np.uint8)
    table[list(classes)] = np.arange(len(classes), dtype=np.uint8)
    indices = table[label]
    strange = label[(indices == IGNORED) & (label != IGNORED)]
    if strange.size:
        value = int(strange[0])
        raise DataError(
            f"The label of {case} holds {value}, which is none of the classes {tuple(classes)}.",
            remedy=f"map it, for example data.label_map.{value}=1, and profile again",
        )
    return np.ascontiguousarray(indices)


def write_mask(path: Path, mask: Array, like: Volume, *, of: str = "", by: str = "") -> Path:
    """Write a mask (X, Y, Z) as uint8 NIfTI with the geometry of `like`.

    Args:
        of: mark of its source.
        by: digest of all that decided it.

    Raises:
        DataError: the mask has another shape than `like`, or the name is no NIfTI name.
    """
    if mask.shape != like.shape or not path.name.endswith(NIFTI):
        raise DataError(
            f"A mask of shape {mask.shape} cannot be written to {path} for a volume of shape "
            f"{like.shape}.",
            remedy="give a mask of the volume's shape and a file name ending in .nii.gz",
        )
    about = f"{OWN_MASK} {of} {_content(mask)} {by}".rstrip()
    return nifti.write(path, np.asarray(mask, dtype=np.uint8), like, about=about.encode())


def _content(mask: Array) -> str:
    return hashlib.blake2b(mask.astype(np.int32).tobytes(), digest_size=8).hexdigest()


def write_volume(path: Path, volume: Volume) -> Path:
    """Write a volume as NIfTI, in its own dtype where NIfTI has it."""
    kinds = {"bool": np.uint8, "float16": np.float32}
    dtype = kinds.get(str(volume.array.dtype), volume.array.dtype)
    return nifti.write(path, volume.array.astype(dtype, copy=False), volume)


def is_own_mask(path: Path, *, of: str = "") -> bool:
    """Whether `write_mask` wrote this file, of the source with this mark if one is given."""
    return suffix(path) in NIFTI and nifti.about(path).startswith(f"{OWN_MASK} {of}".encode())


def is_made(path: Path, *, of: str, by: str) -> bool:
    """Whether a file is the mask that the same source, model and settings gave, unchanged."""
    words = nifti.about(path).decode("latin-1").removeprefix(OWN_MASK).split()
    return words[::2] == [of, by] and is_own_mask(path) and not is_corrected(path)


def is_corrected(path: Path) -> bool:
    """Whether a mask that `write_mask` wrote holds other voxels since: editors keep its header."""
    words = nifti.about(path).decode("latin-1").removeprefix(f"{OWN_MASK} ").split(" ")
    content = words[1] if len(words) > 1 else ""
    try:
        return bool(content) and content != _content(read_volume(path).array)
    except DataError:  # a damaged file is no correction; reading it raises the error
        return False


def _regridded(volume: Volume, image: Array) -> Volume:
    """Return the geometry of a grid that covers the same box with other voxels."""
    scale = np.array(volume.shape) / np.array(image.shape)
    step = np.diag([*scale, 1.0])
    step[:3, 3] = (scale - 1) / 2
    spacing = spacing_of(np.array(volume.spacing) * scale)
    return Volume(image, spacing, volume.unit, volume.affine @ step)
