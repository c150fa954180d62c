"""What a volume looks like: three slices and a projection, its label drawn over them."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from minivess.contracts import Case, VolumeStats
from minivess.data.volume import Array, Volume, read, relabel, whole
from minivess.errors import DataError

Pixels = npt.NDArray[np.uint8]

VIEWS = ("axial", "coronal", "sagittal", "maximum")
PANEL = 220  # pixels along the longer side of a panel
TINT, EDGE = 0.2, 0.9  # shares of the class colour
COLOURS = np.array(
    [(255, 90, 60), (60, 170, 255), (90, 220, 110), (240, 200, 40), (200, 110, 255)],
    dtype=np.float64,
)


def readable_views(
    case: Case, volume: VolumeStats | None, label_map: dict[int, int]
) -> dict[str, str]:
    """The four views; of a volume that was left out the image alone, if it can be read."""
    if volume is not None:
        return dict(zip(VIEWS, _views(case, volume, label_map), strict=True))
    try:
        image = read(case.image)
    except DataError:
        return {}
    array = np.nan_to_num(image.array.astype(np.float64), posinf=0.0, neginf=0.0)
    low, high = (float(value) for value in np.percentile(array, (0.5, 99.5)))
    return dict(
        zip(VIEWS, _planes(array, np.zeros(array.shape, np.uint8), image, (low, high)), strict=True)
    )


def projection(image: Path, label: Path) -> Image.Image | None:
    """The maximum along z with the label's outline, for a picture file; None if unreadable."""
    try:
        volume = read(image)
    except DataError:
        return None
    array = np.nan_to_num(volume.array.astype(np.float64), posinf=0.0, neginf=0.0)
    low, high = (float(value) for value in np.percentile(array, (0.5, 99.5)))
    mask = _label_or_nothing(label, array.shape)
    pixels = _panel((array.max(axis=2) - low) / max(high - low, 1e-9), mask.max(axis=2))
    return Image.fromarray(pixels)


def _label_or_nothing(path: Path, shape: tuple[int, ...]) -> Array:
    try:
        label = whole(read(path).array, path)
    except DataError:
        return np.zeros(shape, np.uint8)
    return label if label.shape == shape else np.zeros(shape, np.uint8)


def _views(case: Case, stats: VolumeStats, label_map: dict[int, int]) -> list[str]:
    """Data addresses of four panels; slices go through the middle of the label."""
    image, label_path = read(case.image), cast(Path, case.label)
    label = relabel(whole(read(label_path).array, label_path), label_map)
    window = stats.percentiles["0.5"], stats.percentiles["99.5"]
    return _planes(image.array, label, image, window)


def _planes(image: Array, label: Array, volume: Volume, window: tuple[float, float]) -> list[str]:
    x, y, z = _middle(label)
    dx, dy, dz = (max(step, 1e-9) for step in volume.spacing)
    panels = (
        (image[:, :, z], label[:, :, z], dy / dx),
        (image[:, y, :], label[:, y, :], dz / dx),
        (image[x, :, :], label[x, :, :], dz / dy),
        (image.max(axis=2), label.max(axis=2), dy / dx),
    )
    low, high = window
    return [
        _address(_panel((plane.astype(np.float64) - low) / max(high - low, 1e-9), mask), aspect)
        for plane, mask, aspect in panels
    ]


def _middle(label: Array) -> tuple[int, int, int]:
    """The slice of each axis with most foreground."""
    foreground = label != 0
    others = ((1, 2), (0, 2), (0, 1))
    if not foreground.any():
        x, y, z = (size // 2 for size in label.shape)
        return x, y, z
    x, y, z = (int(np.argmax(foreground.sum(axis=axes))) for axes in others)
    return x, y, z


def _panel(image: Array, mask: Array) -> Pixels:
    """Grey (A, B), 0 to 1, and classes (A, B) -> colours (B, A, 3): the first axis runs right.

    Foreground is tinted, its edge drawn.
    """
    pixels = np.repeat(np.clip(image, 0, 1)[..., np.newaxis], 3, axis=2) * 255
    colours = COLOURS[(mask.astype(np.int64) - 1) % len(COLOURS)]
    weight = np.where(_edge(mask), EDGE, np.where(mask != 0, TINT, 0.0))[..., np.newaxis]
    mixed = (1 - weight) * pixels + weight * colours
    return np.asarray(mixed.transpose(1, 0, 2), dtype=np.uint8)


def _edge(mask: Array) -> npt.NDArray[np.bool_]:
    """Foreground pixels with a neighbour of another class."""
    around = np.pad(mask, 1, mode="edge")
    neighbours = (around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:])
    differs = np.any([neighbour != mask for neighbour in neighbours], axis=0)
    return np.asarray(differs & (mask != 0))


def _address(pixels: Pixels, aspect: float) -> str:
    """A JPEG data address, scaled so that both axes have the same physical scale."""
    height, width = pixels.shape[0] * aspect, float(pixels.shape[1])
    scale = PANEL / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST).save(buffer, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def legend(classes: Sequence[int]) -> list[tuple[int, str]]:
    """Each foreground class with its colour in the views."""
    return [
        (value, "#" + "".join(f"{int(part):02x}" for part in COLOURS[(value - 1) % len(COLOURS)]))
        for value in classes
        if value != 0
    ]
