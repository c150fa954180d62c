"""Overlay panels: image, truth, prediction, their difference and uncertainty, side by side.

Masks are projected along z, and so is an image with bright foreground (microscopy); of other images
one slice is shown. Colours of the difference: white is a true positive, orange a false positive,
blue a false negative, pink another class (Okabe and Ito's colours, safe for colour-blind readers).
Uncertainty is averaged along z and scaled by its highest value.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from minivess import files, units

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = npt.NDArray[Any]

FOUND, EXTRA, MISSED, CONFUSED = "#f2f2f2", "#e69f00", "#56b4e9", "#cc79a7"
# Classes and errors have different colours.
CLASSES = ("#f2f2f2", "#009e73", "#f0e442", "#3b7fc4", "#d55e00", "#8a6fd1")
BACKGROUND = (0.055, 0.065, 0.08)
TILE = 3.0  # inches


def draw(
    image: Array, truth: Array, prediction: Array, *, spacing: tuple[float, ...], unit: str,
    path: Path, entropy: Array | None = None,
) -> Path:  # fmt: skip
    """Write one strip of tiles as PNG; arrays are (X, Y, Z), masks hold class indices."""
    from matplotlib.figure import Figure

    title, plane = view(image, truth)
    tiles = {
        title: grey(plane),
        "truth": classes(truth),
        "prediction": classes(prediction),
        "difference": difference(truth, prediction),
    }
    if entropy is not None:
        tiles["uncertainty"] = _heated(entropy.mean(axis=-1))
    aspect = spacing[1] / spacing[0]
    ratio = image.shape[1] * aspect / image.shape[0]
    figure = Figure(figsize=(len(tiles) * TILE + 0.18, TILE * min(max(ratio, 0.5), 1.6)))
    figure.subplots_adjust(0, 0, 1, 1, wspace=0.02)
    for axis, (title, tile) in zip(figure.subplots(1, len(tiles)), tiles.items(), strict=True):
        axis.imshow(tile.swapaxes(0, 1), aspect=aspect, interpolation="lanczos", vmin=0, vmax=1)
        axis.set_axis_off()
        _label(axis, title)
    _scale_bar(figure.axes[0], image.shape[0], spacing[0], unit)
    return files.write(path, lambda target: _save(figure, target))


def view(image: Array, truth: Array) -> tuple[str, Array]:
    """Return a title and a plane (X, Y) that shows the foreground of (X, Y, Z).

    A maximum projection shows what is brighter than its surroundings; for other images the slice
    with the most foreground is taken.
    """
    there = truth > 0
    if not there.any() or there.all() or image[there].mean() > np.percentile(image[~there], 75):
        return "image", image.max(axis=-1)
    depth = int(there.sum(axis=(0, 1)).argmax())
    return f"image, slice {depth}", image[..., depth]


def grey(plane: Array) -> Array:
    """Return a plane (X, Y) as grey (X, Y, 3), scaled between its percentiles 1 and 99.7."""
    flat = plane.astype(np.float32)
    low, high = np.percentile(flat, (1, 99.7))
    stretched = ((flat - low) / max(high - low, 1e-6)).clip(0, 1)
    return np.repeat(stretched[..., None], 3, axis=-1)


def classes(mask: Array) -> Array:
    """Blend the classes along z by frequency, (X, Y, Z) -> (X, Y, 3); brightness shows depth."""
    layers = {
        CLASSES[(index - 1) % len(CLASSES)]: mask == index for index in np.unique(mask) if index > 0
    }
    return _mixed(layers, mask.shape[:2])


def difference(truth: Array, prediction: Array) -> Array:
    """Blend true positive, false positive, false negative and confused voxels along z."""
    actual, found = truth > 0, prediction > 0
    layers = {
        FOUND: actual & (truth == prediction),
        EXTRA: found & ~actual,
        MISSED: actual & ~found,
        CONFUSED: actual & found & (truth != prediction),
    }
    return _mixed(layers, truth.shape[:2])


def _mixed(layers: dict[str, Array], shape: tuple[int, ...]) -> Array:
    from matplotlib.colors import to_rgb

    background = np.array(BACKGROUND, dtype=np.float32)
    total = np.zeros(shape, dtype=np.float32)
    colour = np.zeros((*shape, 3), dtype=np.float32)
    for name, layer in layers.items():
        depth = layer.sum(axis=-1, dtype=np.float32)
        total += depth
        colour += depth[..., None] * np.array(to_rgb(name), dtype=np.float32)
    colour /= np.maximum(total, 1)[..., None]
    deepest = max(float(total.max()), 1.0)
    opacity = np.where(total > 0, 0.55 + 0.45 * total / deepest, 0)[..., None]
    mixed: Array = background + opacity * (colour - background)
    return mixed


def _heated(plane: Array) -> Array:
    from matplotlib import colormaps

    coloured: Array = colormaps["inferno"](plane / max(float(plane.max()), 1e-6))[..., :3]
    return coloured


def _label(axis: Axes, title: str) -> None:
    axis.text(
        0.03, 0.965, title, transform=axis.transAxes, color="white", fontsize=10.5, va="top",
        bbox={"facecolor": "black", "alpha": 0.45, "edgecolor": "none", "pad": 2.5},
    )  # fmt: skip


def _scale_bar(axis: Axes, width: int, spacing: float, unit: str) -> None:
    """Draw a scale bar of a round length, about a quarter of the tile."""
    from matplotlib.patheffects import withStroke

    dark = [withStroke(linewidth=3, foreground="black", alpha=0.7)]
    length = round_length(width * spacing / 4)
    left, right = width * 0.95 - length / spacing, width * 0.95
    bottom = axis.get_ylim()[0] * 0.93
    axis.fill_between([left, right], bottom, bottom * 1.015, color="white", path_effects=dark)
    axis.text(
        (left + right) / 2, bottom * 0.975, f"{length:g} {units.symbol(unit)}".strip(),
        color="white", fontsize=9.5, ha="center", va="bottom", path_effects=dark,
    )  # fmt: skip


def round_length(about: float) -> float:
    """Return the largest 1, 2 or 5 times a power of ten that is <= `about`."""
    power = 10.0 ** np.floor(np.log10(about))
    return float(power * max(step for step in (1, 2, 5) if step * power <= about))


def _save(figure: Any, target: Path) -> None:
    """Save with a palette of 256 colours, which keeps reports small."""
    from PIL import Image

    figure.savefig(target, dpi=130, facecolor=BACKGROUND)
    with Image.open(target) as picture:
        small = picture.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    small.save(target, optimize=True)
