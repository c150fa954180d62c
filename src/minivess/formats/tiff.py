"""TIFF stacks: OME-TIFF, ImageJ, and plain TIFF, which states no voxel size along z."""

from __future__ import annotations

import json
import math
import re
import shlex
import struct
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from minivess import units
from minivess.contracts import Spacing
from minivess.errors import DataError
from minivess.formats import decode
from minivess.formats.decode import DimensionsError, Remarks, Volume, file_error
from minivess.formats.filenames import stem, volume_files
from minivess.text import several, some

# What one byte can become at most: LZW about 1400 and deflate 1032, newer codecs far more.
MOST_PACKED, OLD_CODECS, RAW = 1500, (5, 8, 32946), 1
# What an axis letter of tifffile means when it is not one of X, Y, Z: pages of a plain stack.
PAGES = "QI"
# Dots per inch of screens, printers and scanners, which are not the size of a voxel.
DPI = (72, 75, 96, 100, 120, 144, 150, 180, 200, 220, 240, 300, 360, 400, 600, 1200, 2400, 4800)
WHITE_IS_ZERO = 0
# Version of a TIFF: type of the number of tags of a page and of an offset, bytes of a tag, and
# where the offset of the first page stands.
CHAINS = {42: ("H", "I", 12, 4), 43: ("Q", "Q", 20, 8)}

Geometry = tuple[Spacing, str, bool]


def read(path: Path) -> Volume:
    """Read the one volume of a file; voxel size from OME, ImageJ, tags, or JSON beside it."""
    with _opened(path) as tiff:
        _refuse_sets(path, tiff)
        series, remarks = _series(path, tiff)
        order, shape, said = _axes(path, series)
        decode.check_dtype(path, series.dtype)
        _check_size(path, series)
        array = series.asarray(maxworkers=1).reshape(shape).transpose(order)
        # By the standard 0 may be white; to ImageJ that is a way to display, and voxels count.
        if series.keyframe.photometric == WHITE_IS_ZERO and not tiff.is_imagej:
            array = ~array if array.dtype.kind in "iub" else -array
            said += (("read_as", "The file calls 0 white: its values are read inverted."),)
        if _number((tiff.imagej_metadata or {}).get("spacing")) < 0:
            said += (("read_as", "The distance of its slices is negative; its size is used."),)
        geometry = _geometry(tiff, series)
    (spacing, unit, known), alone, more = _beside(path, geometry)
    decode.check_shape(path, array.shape)
    return Volume(
        array.astype(array.dtype.newbyteorder("="), copy=False),
        spacing,
        unit,
        np.diag([*spacing, 1.0]),
        spacing_known=known,
        placed=False,
        alone=alone,
        remarks=(*remarks, *said, *more),
    )


def stated_shape(path: Path) -> tuple[int, ...]:
    """Return the shape of the one volume of a file, from its tags."""
    with _opened(path) as tiff:
        return tuple(int(size) for size in _series(path, tiff)[0].shape)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    import tifffile

    _refuse_circles(path)
    try:
        with tifffile.TiffFile(path) as tiff:
            yield tiff
    except Exception as error:
        if isinstance(error, ImportError) or "imagecodecs" in str(error):
            raise DataError(
                f"The file {path} needs a decoder that is not installed ({error}).",
                remedy="pip install imagecodecs",
            ) from error
        raise


def _refuse_circles(path: Path) -> None:
    """Refuse a file whose pages lead back to an earlier one, which tifffile would never end."""
    length = path.stat().st_size
    seen: set[int] = set()
    with path.open("rb") as file:
        head = file.read(16).ljust(16, b"\0")
        order = "<" if head[:2] == b"II" else ">"
        if (kind := CHAINS.get(struct.unpack(f"{order}H", head[2:4])[0])) is None:
            return  # no TIFF, which the library says
        number, offset, entry, at = kind

        def unpacked(form: str, place: int) -> int:
            size = struct.calcsize(form)
            if place + size > length:
                return 0  # cut off, which the library says
            file.seek(place)
            return int(struct.unpack(order + form, file.read(size))[0])

        page = unpacked(offset, at)
        while page:
            if page in seen:
                raise file_error(path, f"is damaged: page {len(seen)} leads back to an earlier one")
            seen.add(page)
            tags = unpacked(number, page)
            page = unpacked(offset, page + struct.calcsize(number) + tags * entry)


def _refuse_sets(path: Path, tiff: Any) -> None:
    """Refuse a set of files: it would be copied in part, planes of a lost file would be zeros."""
    named = set(re.findall(r'FileName="([^"]+)"', tiff.ome_metadata or "")) if tiff.is_ome else ()
    if len(named) < 2:
        return
    lost = sorted(name for name in named if not (path.parent / name).exists())
    whole = f"{stem(path)}_whole.ome.tif"
    program = (
        f"import tifffile as t; f = t.TiffFile({str(path)!r}); s = f.series[0]; "
        "p = t.xml2dict(f.ome_metadata)['OME']['Image']['Pixels']; "
        "m = {k: v for k, v in p.items() if k.startswith('PhysicalSize')}; "
        f"t.imwrite({whole!r}, s.asarray(), ome=True, metadata={{'axes': s.axes, **m}})"
    )
    raise DataError(
        f"The file {path} is one of {len(named)} files of an OME-TIFF set "
        f"({some(sorted(named), 3)})"
        + (f", of which {some(lost, 3)} is not there." if lost else "."),
        remedy=f"put {some(lost, 3)} beside it, then profile again"
        if lost
        else "put one file in place of the set; this writes it into the working folder: "
        f"{shlex.quote(sys.executable)} -c {shlex.quote(program)}",
    )


def _series(path: Path, tiff: Any) -> tuple[Any, Remarks]:
    """Return the one volume among the images of a file; thumbnails and slide labels are ignored."""
    if not tiff.series:
        raise file_error(path, "holds no image")
    stacks = [one for one in tiff.series if sum(size != 1 for size in one.shape) > 2]
    if len(stacks) > 1:
        raise DimensionsError(
            f"The file {path} holds {len(stacks)} volumes (positions or series, shapes "
            f"{some((one.shape for one in stacks), 3)}); one file is one volume.",
            remedy="store each in a file of its own, with a label each",
        )
    chosen = stacks[0] if stacks else tiff.series[0]
    others = [one.shape for one in tiff.series if one is not chosen]
    if not others:
        return chosen, ()
    problem = f"Beside its volume {chosen.shape} the file holds images of {some(others, 3)}"
    return chosen, (("read_as", f"{problem}, which are not read."),)


def _axes(path: Path, series: Any) -> tuple[tuple[int, ...], tuple[int, ...], Remarks]:
    """Return the order of axes as (x, y, z), the shape without other axes of one, and remarks."""
    kept = [
        (letter, size)
        for letter, size in zip(series.axes, series.shape, strict=True)
        if letter in "XYZ" or size != 1
    ]
    letters = "".join(letter for letter, _ in kept)
    shape = tuple(size for _, size in kept)
    if {"S", "C"} & set(letters):
        raise DimensionsError(
            f"The file {path} holds colours or channels (shape {series.shape}, axes "
            f"{series.axes}); a volume has one grey value for each voxel.",
            remedy="store one channel in a file, as x, y and z",
        )
    said: Remarks = ()
    for stand_in in (*PAGES, "T"):
        if "Z" not in letters and len(letters) == 3 and stand_in in letters:
            letters = letters.replace(stand_in, "Z")
            if stand_in == "T":
                said = (("read_as", "The file calls its slices time points; they are read as z."),)
    decode.check_shape(path, shape)
    if sorted(letters) != ["X", "Y", "Z"]:
        raise file_error(path, f"has axes {series.axes}, which are no x, y, z")
    return tuple(letters.index(letter) for letter in "XYZ"), shape, said


def _check_size(path: Path, series: Any) -> None:
    """Check that all voxels are there and fit into memory; tifffile reads lost planes as zeros."""
    first = series.keyframe
    if first.parent.filename != path.name:
        raise file_error(path, f"holds no voxels of its own; they lie in {first.parent.filename}")
    size = math.prod(series.shape) * first.bitspersample // 8
    most = 1 if first.compression == RAW else MOST_PACKED
    if first.compression not in (RAW, *OLD_CODECS):
        most *= 100
    unpacked = math.prod(series.shape) * series.dtype.itemsize
    decode.check_size(path, size, most=path.stat().st_size * most, unpacked=unpacked)
    if series.dataoffset is None:
        lost = sum(page is None or not all(page.databytecounts) for page in series.pages)
        if lost:
            raise file_error(path, f"lacks {lost} of its {several(len(series.pages), 'plane')}")


# --- voxel size ---------------------------------------------------------------------------


def _geometry(tiff: Any, series: Any) -> Geometry:
    """Return the voxel size from OME metadata, ImageJ or tifffile metadata, or resolution tags."""
    shaped: Mapping[str, Any] = (tiff.shaped_metadata or ({},))[0] if tiff.is_shaped else {}
    pixels = _pixels(tiff.ome_metadata) if tiff.is_ome else shaped
    if any(pixels.get(f"PhysicalSize{axis}") for axis in "XYZ"):
        sizes = [pixels.get(f"PhysicalSize{axis}") for axis in "XYZ"]
        return _stated(sizes, [pixels.get(f"PhysicalSize{axis}Unit", "µm") for axis in "XYZ"])
    meta = (tiff.imagej_metadata or {}) if tiff.is_imagej else shaped
    across = _resolution(series.keyframe)
    tag = {2: "inch", 3: "cm"}.get(series.keyframe.tags.valueof("ResolutionUnit"), "")
    word = meta.get("unit") or (tag if across else "")
    if across and any(_is_print(step, word) for step in across):
        across, word = None, meta.get("unit") if meta.get("spacing") else ""
    spacing, unit, known = _stated(
        [*(across or (1.0, 1.0)), abs(_number(meta.get("spacing")))],
        [word, meta.get("yunit") or word, meta.get("zunit") or word],
    )
    return spacing, unit, known and across is not None


def _pixels(xml: str) -> Mapping[str, str]:
    root = ElementTree.fromstring(xml)
    return next((node.attrib for node in root.iter() if node.tag.endswith("}Pixels")), {})


def _stated(sizes: list[Any], words: list[Any]) -> Geometry:
    """Convert sizes, each in a unit of its own, to one unit; invalid sizes or units are unknown."""
    factors, unit = units.common_unit(words)
    steps = [_number(size) * factor for size, factor in zip(sizes, factors, strict=True)]
    spacing, known = units.positive_spacing(steps)
    return spacing, unit, known and unit != units.UNKNOWN


def _number(text: Any) -> float:
    try:
        return float(text or 0)
    except ValueError:
        return 0.0


def _resolution(page: Any) -> tuple[float, float] | None:
    """Return the pixel size in the unit of the resolution tags; 1/1 stands for unknown."""
    steps = []
    for name in ("XResolution", "YResolution"):
        above, below = page.tags.valueof(name) or (0, 1)
        if not above or (above, below) == (1, 1):
            return None
        steps.append(below / above)
    return steps[0], steps[1]


def _is_print(step: float, word: object) -> bool:
    size = units.in_micron(word)
    if size not in (units.IN_MICRON["inch"], units.IN_MICRON["cm"]):
        return False
    dots = units.IN_MICRON["inch"] / (step * size)
    return any(abs(dots - known) < 0.01 * known for known in DPI)


def _beside(path: Path, own: Geometry) -> tuple[Geometry, bool, Remarks]:
    """Return the voxel size, from the file or else from a JSON file beside it (nnU-Net: z, y, x).

    Also whether the file alone holds all that is known, and remarks.
    """
    for place in volume_files(path)[1:]:
        try:
            content = json.loads(place.read_text(encoding="utf-8"))
            steps = [float(step) for step in reversed(content["spacing"])]
            factors, unit = units.common_unit([content.get("unit")] * 3)
        except (ValueError, KeyError, TypeError, AttributeError):
            continue  # another JSON file of the same name
        sizes = [step * factor for step, factor in zip(steps, factors, strict=False)]
        spacing, known = units.positive_spacing(sizes)
        if len(steps) != 3 or not known:
            raise file_error(place, f"states the spacing {content['spacing']}, not three sizes")
        if not own[2]:
            return (spacing, unit, True), False, ()
        if not np.allclose(spacing, own[0], rtol=1e-3):
            said = f"{place.name} states {units.spacing_text(spacing, unit)}, the file "
            return (
                own,
                True,
                (("forms_disagree", f"{said}{units.spacing_text(*own[:2])}, as used."),),
            )
    return own, True, ()
