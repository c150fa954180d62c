"""The metrics once more, voxel by voxel, from their definitions; shares no code with the product.

Only the thinning of masks is the library's; everything else is sets of voxels and plain Python.
"""

from __future__ import annotations

import math
from itertools import product

import numpy as np
from skimage.morphology import skeletonize

Voxel = tuple[int, int, int]
FACES = ((1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1))
UNANNOTATED = 255


def judge(
    guess: np.ndarray, truth: np.ndarray, classes: tuple[int, ...], spacing: tuple[float, ...],
    cap: float, tolerance: float,
) -> dict[str, float | None]:  # fmt: skip
    """Every metric, of each class and their mean; None where one is undefined."""
    rows = {}
    for index, value in enumerate(classes[1:], start=1):
        annotated = truth != UNANNOTATED
        a, b = (_voxels((mask == index) & annotated) for mask in (guess, truth))
        rows[value] = _judge(a, b, truth.shape, spacing, cap, tolerance)
    found: dict[str, float | None] = {}
    for name in next(iter(rows.values())):
        values = [row[name] for row in rows.values()]
        known = [value for value in values if value is not None]
        found[name] = sum(known) / len(values) if len(known) == len(values) else None
        if len(rows) > 1:
            found |= {f"{name}_class{value}": row[name] for value, row in rows.items()}
    return found


def _voxels(mask: np.ndarray) -> set[Voxel]:
    columns, rows, slices = (range(side) for side in mask.shape)
    return {(x, y, z) for x, y, z in product(columns, rows, slices) if mask[x, y, z]}


def _judge(
    a: set[Voxel], b: set[Voxel], shape: tuple[int, ...], spacing: tuple[float, ...], cap: float,
    tolerance: float,
) -> dict[str, float | None]:  # fmt: skip
    if not a and not b:
        return _row(1.0, 1.0, 0.0, 0.0, 1.0, 1.0)
    if not a or not b:
        return _row(0.0, 0.0, None, None, 0.0, 0.0)
    overlap = 2 * len(a & b) / (len(a) + len(b))
    shares = _share(_skeleton(a, shape), b), _share(_skeleton(b, shape), a)
    cldice = 2 * shares[0] * shares[1] / sum(shares) if sum(shares) else 0.0
    edges = _surface(a), _surface(b)
    voxels = [_nearest(*pair, (1.0, 1.0, 1.0)) for pair in (edges, edges[::-1])]
    real = [_nearest(*pair, spacing) for pair in (edges, edges[::-1])]
    masd = sum(sum(one) / len(one) for one in voxels) / 2
    close = sum(distance <= tolerance for one in voxels for distance in one)
    return _row(
        overlap, cldice,
        sum(sum(one) / len(one) for one in real) / 2,
        max(_percentile(one, 0.95) for one in real),
        close / sum(map(len, voxels)),
        0.5 * cldice + 0.5 * (1 - min(masd, cap) / cap),
    )  # fmt: skip


def _row(
    overlap: float,
    cldice: float,
    masd: float | None,
    hd95: float | None,
    nsd: float,
    primary: float,
) -> dict[str, float | None]:
    return {
        "dice": overlap, "f1": overlap, "cldice": cldice, "masd": masd, "hd95": hd95, "nsd": nsd,
        "compound_masd_cldice": primary,
    }  # fmt: skip


def _surface(voxels: set[Voxel]) -> list[Voxel]:
    """Voxels of which one of six neighbours is outside, or lies beyond the volume."""
    return [v for v in voxels if any(_moved(v, face) not in voxels for face in FACES)]


def _moved(voxel: Voxel, face: Voxel) -> Voxel:
    return voxel[0] + face[0], voxel[1] + face[1], voxel[2] + face[2]


def _nearest(ends: list[Voxel], others: list[Voxel], spacing: tuple[float, ...]) -> list[float]:
    """Distance of each voxel to the nearest of the others."""
    return [min(_distance(one, other, spacing) for other in others) for one in ends]


def _distance(one: Voxel, other: Voxel, spacing: tuple[float, ...]) -> float:
    return math.sqrt(
        sum(((a - b) * side) ** 2 for a, b, side in zip(one, other, spacing, strict=True))
    )


def _percentile(values: list[float], share: float) -> float:
    """Linear between the two values beside the place."""
    ordered, place = sorted(values), share * (len(values) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def _skeleton(voxels: set[Voxel], shape: tuple[int, ...]) -> set[Voxel]:
    """The thinned mask; a solid body that thinning erases is its own skeleton."""
    mask = np.zeros(shape, bool)
    for voxel in voxels:
        mask[voxel] = True
    return _voxels(skeletonize(mask)) or voxels


def _share(inner: set[Voxel], outer: set[Voxel]) -> float:
    return len(inner & outer) / len(inner)
