"""Vessel trees as a two-photon microscope might see them, with exact labels.

The signal fades with depth, the field is lit unevenly, blurred along z, noisy, and holds bright
cells that are not vessels, so that brightness alone does not identify a vessel.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from minivess.contracts import Shape, Spacing

Floats = npt.NDArray[np.float64]

STEP_UM = 0.5  # between points of a centre line


class Look(NamedTuple):
    """A kind of volume: its sizes, its vessels, its light."""

    side: tuple[int, int]  # voxels along x and y, from, below
    slices: tuple[int, ...]  # of one volume after the other
    radii_um: tuple[tuple[float, float, float], ...]  # thinnest, and of a tree's trunk from, to
    share: float  # of the voxels that are vessel
    trees: int  # at most
    cell_um3: float  # of tissue for each bright cell
    haze: float
    cloud: float  # voxels over which haze and light change
    dimmest: float  # light of the darkest place, of 1
    photons: tuple[float, float]
    occupied: float = 1.0  # share of the field that holds vessels


LOOKS = {
    "demo": Look(
        side=(48, 73), slices=(5, 12, 8, 16, 6, 20, 10, 24, 7, 14, 18, 9),
        radii_um=((0.6, 1.1, 2.4),), share=0.07, trees=40, cell_um3=700,
        haze=0.35, cloud=9.0, dimmest=0.35, photons=(24, 40),
    ),
    "two-photon": Look(
        side=(320, 513), slices=(10, 26, 14, 18, 12, 22),
        radii_um=((2.0, 5.0, 9.0), (0.7, 1.6, 2.6)), share=0.05, trees=200, cell_um3=20000,
        haze=0.3, cloud=40.0, dimmest=0.5, photons=(14, 17), occupied=0.6,
    ),
}  # fmt: skip


class Segment(NamedTuple):
    """A growing tip: where it is, where it goes, how thick it is; micrometres."""

    point: Floats
    direction: Floats
    radius: float


def make_vessels(
    index: int, seed: int, like: str = "demo"
) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint8], Spacing]:
    """Make volume number `index`: image and label (X, Y, Z), spacing in micrometres."""
    rng = np.random.default_rng([seed, index])
    look = LOOKS[like]
    slices = look.slices[index % len(look.slices)]
    shape = (int(rng.integers(*look.side)), int(rng.integers(*look.side)), slices)
    xy = round(float(rng.uniform(0.56, 0.64)), 2)
    spacing = (xy, xy, round(float(rng.uniform(1.4, 1.6)), 2))
    radii = look.radii_um[index % len(look.radii_um)]
    label, signal = _vessels(rng, shape, spacing, (look, radii))
    if look.occupied < 1:
        field = _cloud(rng, shape, look.cloud)
        inside = field > np.quantile(field, 1 - look.occupied)
        label, signal = label * inside, signal * inside
    return _image(rng, signal, label, spacing, look), label, spacing


# --- anatomy ------------------------------------------------------------------------------


def _vessels(
    rng: np.random.Generator,
    shape: Shape,
    spacing: Spacing,
    anatomy: tuple[Look, tuple[float, float, float]],
) -> tuple[npt.NDArray[np.uint8], Floats]:
    """Return the mask of vessel trees, and brightness that differs from vessel to vessel."""
    mask = np.zeros(shape, dtype=np.uint8)
    signal = np.zeros(shape)
    box = np.array(shape) * spacing
    look, radii = anatomy
    wanted = look.share * mask.size * rng.uniform(0.8, 1.4)
    for _ in range(look.trees):
        if mask.sum() >= wanted:
            break
        _grow(rng, mask, signal, (box, np.array(spacing), radii))
    return mask, signal


def _grow(
    rng: np.random.Generator,
    mask: npt.NDArray[np.uint8],
    signal: Floats,
    space: tuple[Floats, Floats, tuple[float, float, float]],
) -> None:
    """Grow one tree from a side of the box until every tip left it or ended.

    `space` is the extent of the box, the spacing, and the radii.
    """
    box, spacing, (thinnest, least, most) = space
    tips = [_root(rng, box, (least, most))]
    brightness = rng.uniform(0.9, 1.5)
    for _ in range(1500):
        if not tips:
            return
        tip = tips.pop()
        if not (np.all(tip.point >= -tip.radius) and np.all(tip.point <= box + tip.radius)):
            continue
        _stamp(mask, signal, tip, (spacing, brightness))
        tips += _next(rng, tip, thinnest)


def _root(rng: np.random.Generator, box: Floats, trunk: tuple[float, float]) -> Segment:
    point = rng.uniform(0, 1, 3) * box
    axis, side = int(rng.integers(2)), int(rng.integers(2))
    point[axis] = side * box[axis]
    direction = rng.normal(0, 1, 3) * (1, 1, 0.15)
    direction[axis] = (1.0 - 2 * side) * (1 + abs(direction[axis]))
    return Segment(point, _unit(direction), float(rng.uniform(*trunk)))


def _next(rng: np.random.Generator, tip: Segment, thinnest: float) -> list[Segment]:
    """Advance one step, or branch in two that keep the sum of cubed radii (Murray 1926)."""
    point = tip.point + STEP_UM * tip.direction
    drift = rng.normal(0, 0.09, 3) * (1, 1, 0.4)
    if rng.random() > 0.03:
        return [Segment(point, _unit(tip.direction + drift), tip.radius * 0.998)]
    share = rng.uniform(0.3, 0.7)
    away = rng.normal(0, 0.7, 3) * (1, 1, 0.4)
    branches = (
        Segment(point, _unit(tip.direction + away), tip.radius * share ** (1 / 3)),
        Segment(point, _unit(tip.direction - away), tip.radius * (1 - share) ** (1 / 3)),
    )
    return [branch for branch in branches if branch.radius >= thinnest]


def _unit(vector: Floats) -> Floats:
    return np.asarray(vector / np.linalg.norm(vector))


def _stamp(
    mask: npt.NDArray[np.uint8], signal: Floats, tip: Segment, look: tuple[Floats, float]
) -> None:
    """Paint a ball at the tip."""
    spacing, brightness = look
    where, inside = _ball(mask.shape, tip.point, tip.radius, spacing)
    mask[where][inside] = 1
    np.maximum(signal[where], brightness * inside, out=signal[where])


def _ball(
    shape: tuple[int, ...], centre: Floats, radius: float, spacing: Floats
) -> tuple[tuple[slice, ...], npt.NDArray[np.bool_]]:
    low = np.maximum(np.floor((centre - radius) / spacing - 0.5), 0).astype(int)
    high = np.minimum(np.ceil((centre + radius) / spacing + 0.5), shape).astype(int)
    high = np.maximum(high, low)
    axes = [
        ((np.arange(a, b) + 0.5) * step - c) ** 2
        for a, b, step, c in zip(low, high, spacing, centre, strict=True)
    ]
    distance = axes[0][:, None, None] + axes[1][None, :, None] + axes[2][None, None, :]
    where = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    return where, distance <= radius**2


# --- optics -------------------------------------------------------------------------------


def _image(
    rng: np.random.Generator,
    signal: Floats,
    label: npt.NDArray[np.uint8],
    spacing: Spacing,
    look: Look,
) -> npt.NDArray[np.uint16]:
    """Simulate the microscope: cells, haze, uneven light, fading, blur, photon noise."""
    shape = signal.shape
    scene = np.maximum(signal, _cells(rng, label, spacing, look.cell_um3))
    scene = scene + look.haze * _cloud(rng, shape, look.cloud)
    scene = ndimage.gaussian_filter(scene, (0.8, 0.8, 0.6))
    light = look.dimmest + (1 - look.dimmest) * _cloud(rng, shape, 16 * look.cloud / 9)
    depth = np.exp(-np.arange(shape[2]) / shape[2] * rng.uniform(0.8, 1.3))
    photons = rng.poisson(rng.uniform(*look.photons) * scene * light * depth)
    counts = 100 + 30 * photons + rng.normal(0, 20, shape)
    return np.asarray(counts.clip(0, 65535), dtype=np.uint16)


def _cells(
    rng: np.random.Generator, label: npt.NDArray[np.uint8], spacing: Spacing, volume_um3: float
) -> Floats:
    """Return bright round bodies beside the vessels; not labelled."""
    cells = np.zeros(label.shape)
    box = np.array(label.shape) * spacing
    for _ in range(int(box.prod() / volume_um3)):
        where, inside = _ball(
            label.shape, rng.uniform(0, 1, 3) * box, rng.uniform(1.5, 3.2), np.array(spacing)
        )
        np.maximum(cells[where], rng.uniform(0.7, 1.6) * inside, out=cells[where])
    return np.asarray(cells * (label == 0))


def _cloud(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> Floats:
    """Return a smooth random field in 0..1; `sigma` in voxels along x and y."""
    field = ndimage.gaussian_filter(rng.normal(0, 1, shape), (sigma, sigma, sigma / 2.5))
    low, high = float(field.min()), float(field.max())
    return np.asarray((field - low) / (high - low))
