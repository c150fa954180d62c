"""TIFF stacks: OME, ImageJ, and plain ones whose voxel size is not stated along z."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from xml.etree import ElementTree

import numpy as np

from minivess.contracts import Spacing
from minivess.data.payload import Array, Volume, damaged, dtype_of, shape_of
from minivess.errors import DataError

LZW, RAW = 5, 1
MOST_PACKED = 1500  # LZW packs 1400 bytes into one at best, deflate 1032
DAMAGES = (ValueError, KeyError, IndexError, OSError, EOFError, TypeError, RuntimeError)
UNITS = {
    "µm": "micron", "um": "micron", "μm": "micron", "micron": "micron", "microns": "micron",
    "\\u00b5m": "micron", "micrometer": "micron", "mm": "mm", "m": "meter",
}  # fmt: skip
IN_MICRON = {"nm": 1e-3, "cm": 1e4, "inch": 25_400.0, "pixel": 1.0}
# What an axis letter of tifffile means when it is not one of X, Y, Z: pages of a plain stack.
PAGES = "QI"

Geometry = tuple[Spacing, str, bool]


def read(path: Path) -> Volume:
    """Read the first series of a stack; voxel size from OME, ImageJ, or resolution tags."""
    with _opened(path) as tiff:
        if not tiff.series:
            raise damaged(path, "holds no image")
        series = tiff.series[0]
        order, shape = _axes(path, series)
        dtype_of(path, series.dtype)
        _check_size(path, series)
        pages = _voxels(path, series)
        array = pages.reshape(shape).transpose(order)
        spacing, unit, known = _geometry(tiff, series)
    shape_of(path, array.shape)
    affine = np.diag([*spacing, 1.0])
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    return Volume(native, spacing, unit, affine, spacing_known=known)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    import tifffile

    try:
        with tifffile.TiffFile(path) as tiff:
            yield tiff
    except (DataError, FileNotFoundError, PermissionError):
        raise
    except (*DAMAGES, tifffile.TiffFileError, struct.error, ElementTree.ParseError) as error:
        raise damaged(path, f"cannot be read ({error})") from error


def _axes(path: Path, series: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """How axes become (x, y, z), and the shape without other axes of length one."""
    if "S" in series.axes:
        raise DataError(
            f"The file {path} holds colour ({series.shape}, axes {series.axes}).",
            remedy="convert colour to one grey value per voxel",
        )
    kept = [
        (letter, size)
        for letter, size in zip(series.axes, series.shape, strict=True)
        if letter in "XYZ" or size != 1
    ]
    letters = "".join(letter for letter, _ in kept)
    shape = tuple(size for _, size in kept)
    for stand_in in (*PAGES, "T", "C"):  # a plain stack, and one whose slices are called frames
        if "Z" not in letters and len(letters) == 3:
            letters = letters.replace(stand_in, "Z")
    shape_of(path, shape)
    if sorted(letters) != ["X", "Y", "Z"]:
        raise damaged(path, f"has axes {series.axes}, which are no x, y, z")
    return tuple(letters.index(letter) for letter in "XYZ"), shape


def _check_size(path: Path, series: Any) -> None:
    size = math.prod(series.shape) * series.dtype.itemsize
    packed = any(page.compression != RAW for page in series.pages[:1])
    if size > path.stat().st_size * (MOST_PACKED if packed else 1):
        raise damaged(path, f"is truncated: its header promises {size} bytes of voxels")


def _voxels(path: Path, series: Any) -> Array:
    if series.pages[0].compression == LZW and not _has_imagecodecs():
        return _by_pillow(path, len(series.pages))
    return cast(Array, series.asarray(maxworkers=1))


def _has_imagecodecs() -> bool:
    from importlib.util import find_spec

    return find_spec("imagecodecs") is not None


def _by_pillow(path: Path, n: int) -> Array:
    """LZW without imagecodecs: through libtiff, page by page."""
    from PIL import Image, ImageSequence

    with Image.open(path) as image:
        pages = [np.array(page) for page in ImageSequence.Iterator(image)]
    return np.stack(pages[:n])


# --- voxel size ---------------------------------------------------------------------------


def _geometry(tiff: Any, series: Any) -> Geometry:
    if tiff.is_ome and (found := _ome(str(tiff.ome_metadata))) is not None:
        return found
    page = series.pages[0]
    across = _resolution(page)
    if tiff.is_imagej:
        meta = tiff.imagej_metadata or {}
        unit = UNITS.get(str(meta.get("unit", "")).lower(), "unknown")
        depth = meta.get("spacing")
        x, y = across or (1.0, 1.0)
        known = across is not None and depth is not None
        return (x, y, float(depth or 1.0)), unit, known
    step = {2: "inch", 3: "cm"}.get(_value(page, "ResolutionUnit"))
    if across is None or step is None:
        return (1.0, 1.0, 1.0), "unknown", False
    x, y = (value * IN_MICRON[step] for value in across)
    return (x, y, 1.0), "micron", False  # the tags say nothing about z


def _ome(xml: str) -> Geometry | None:
    root = ElementTree.fromstring(xml)
    pixels = next((node for node in root.iter() if node.tag.endswith("}Pixels")), None)
    sizes = [pixels.get(f"PhysicalSize{axis}") for axis in "XYZ"] if pixels is not None else []
    if pixels is None or not any(sizes):
        return None
    name = pixels.get("PhysicalSizeXUnit", "µm")
    unit = UNITS.get(name, "unknown" if name not in IN_MICRON else "micron")
    scale = IN_MICRON.get(name, 1.0)
    spacing = tuple(float(size) * scale if size else 1.0 for size in sizes)
    return cast(Spacing, spacing), unit, all(sizes)


def _resolution(page: Any) -> tuple[float, float] | None:
    """Size of a pixel in the unit of the resolution tags; 1/1 is what writers put for nothing."""
    steps = []
    for name in ("XResolution", "YResolution"):
        above, below = _value(page, name) or (0, 1)
        if not above or (above, below) == (1, 1):
            return None
        steps.append(below / above)
    return steps[0], steps[1]


def _value(page: Any, name: str) -> Any:
    tag = page.tags.get(name)
    return None if tag is None else tag.value
