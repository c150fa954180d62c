"""Pictures of a volume: three slices and a projection, with the label as a separate layer."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from minivess.contracts import IGNORED, Case, LabelMap, VolumeStats
from minivess.data.profiling.grids import align_label
from minivess.errors import DataError
from minivess.formats.volume import Array, Volume, classes_of, read_volume, whole_numbers

PANEL = 330  # pixels along the longer side of a view
CLIPPED = (0.5, 99.5)  # percentiles shown as black and white
TINT, EDGE = 64, 235  # opacity of the class colour, of 255
COLOURS = np.array(
    [(255, 90, 60), (60, 170, 255), (90, 220, 110), (240, 200, 40), (200, 110, 255)], dtype=np.uint8
)


class View(NamedTuple):
    """One picture as data addresses: grey values, and what is drawn over them."""

    image: str
    label: str


def case_views(case: Case, volume: VolumeStats | None, label_map: LabelMap) -> dict[str, View]:
    """Return the four views; of a volume that was left out, as far as it can be read."""
    try:
        image = read_volume(case.image)
    except DataError:
        if volume is None:
            return {}
        raise
    path = cast(Path, case.label)
    label = _label_or_nothing(path, image) if volume is None else _label(path, label_map)
    return {name: View(*layers) for name, layers in _views(image, label).items()}


def projection(image: Path, label: Path) -> Image.Image | None:
    """Return the maximum along z with the label's outline; None if unreadable."""
    try:
        volume = read_volume(image)
    except DataError:
        return None
    return _over(volume.array.max(axis=2), _label_or_nothing(label, volume).max(axis=2))


def picture(case: Case, label_map: LabelMap) -> Image.Image:
    """Return the preview of a volume of a dataset with its label."""
    return preview(read_volume(case.image), _label(cast(Path, case.label), label_map))


def preview(volume: Volume, mask: Array) -> Image.Image:
    """Return the slice with most foreground beside the maximum along z, the mask over both."""
    z, aspect = _middle(mask)[2], volume.spacing[1] / max(volume.spacing[0], 1e-9)
    planes = [(volume.array[:, :, z], mask[:, :, z]), (volume.array.max(axis=2), mask.max(axis=2))]
    return Image.fromarray(np.hstack([np.asarray(_scaled(_over(*two), aspect)) for two in planes]))


def class_colours(classes: Sequence[int]) -> list[tuple[int, str]]:
    """Return each foreground class with its colour in the views."""
    return [
        (value, "#" + "".join(f"{int(part):02x}" for part in COLOURS[(value - 1) % len(COLOURS)]))
        for value in classes
        if value != 0
    ]


def _label(path: Path, label_map: LabelMap) -> Array:
    label = classes_of(read_volume(path).array, path, label_map)
    return np.where(label == IGNORED, 0, label) if IGNORED in label_map.values() else label


def _label_or_nothing(path: Path, image: Volume) -> Array:
    try:
        label = whole_numbers(align_label(read_volume(path), image).array, path)
    except DataError:
        return np.zeros(image.shape, np.uint8)
    return label if label.shape == image.shape else np.zeros(image.shape, np.uint8)


def _views(volume: Volume, label: Array) -> dict[str, tuple[str, str]]:
    """Slices through the middle of the label, and the maximum along z."""
    image, (x, y, z) = volume.array, _middle(label)
    dx, dy, dz = (max(step, 1e-9) for step in volume.spacing)
    planes = {
        "axial": (image[:, :, z], label[:, :, z], dy / dx),
        "maximum": (image.max(axis=2), label.max(axis=2), dy / dx),
        "coronal": (image[:, y, :], label[:, y, :], dz / dx),
        "sagittal": (image[x, :, :], label[x, :, :], dz / dy),
    }
    return {
        name: (
            _address(_scaled(_grey(plane), aspect), "JPEG"),
            _address(_scaled(_drawn(mask), aspect).quantize(32), "PNG"),
        )
        for name, (plane, mask, aspect) in planes.items()
    }


def _middle(label: Array) -> tuple[int, int, int]:
    """The slice of each axis with most foreground."""
    foreground = label != 0
    others = ((1, 2), (0, 2), (0, 1))
    if not foreground.any():
        x, y, z = (size // 2 for size in label.shape)
        return x, y, z
    x, y, z = (int(np.argmax(foreground.sum(axis=axes))) for axes in others)
    return x, y, z


def _grey(plane: Array) -> Image.Image:
    """Grey values (A, B) as a picture: the first axis runs right, the second down."""
    values = np.nan_to_num(plane.astype(np.float64), posinf=0.0, neginf=0.0)
    low, high = np.percentile(values, CLIPPED)
    grey = 255 * np.clip((values - low) / max(high - low, 1e-9), 0, 1)
    return Image.fromarray(grey.T.astype(np.uint8))


def _over(plane: Array, mask: Array) -> Image.Image:
    """Classes drawn over grey values."""
    return Image.alpha_composite(_grey(plane).convert("RGBA"), _drawn(mask)).convert("RGB")


def _drawn(mask: Array) -> Image.Image:
    """Classes (A, B) as a layer: foreground tinted, its edge drawn, the rest clear."""
    opacity = np.where(_edge(mask), EDGE, np.where(mask != 0, TINT, 0))
    colours = COLOURS[(mask.astype(np.int64) - 1) % len(COLOURS)]
    layer = np.concatenate([colours, opacity[..., np.newaxis]], axis=2).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(layer.transpose(1, 0, 2)))


def _edge(mask: Array) -> npt.NDArray[np.bool_]:
    """Foreground pixels with a neighbour of another class."""
    around = np.pad(mask, 1, mode="edge")
    neighbours = (around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:])
    differs = np.any([neighbour != mask for neighbour in neighbours], axis=0)
    return np.asarray(differs & (mask != 0))


def _scaled(picture: Image.Image, aspect: float) -> Image.Image:
    """Scaled so that both axes have the same physical scale; averaged where it gets smaller."""
    height, width = picture.height * aspect, float(picture.width)
    scale = PANEL / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return picture.resize(size, Image.Resampling.BOX)


def _address(picture: Image.Image, form: str) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, form, quality=85, optimize=True)
    return f"data:image/{form.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
