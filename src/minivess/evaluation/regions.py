"""One binary mask and what judging it needs, each computed once: counts, skeleton, surface."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from skimage.morphology import skeletonize

from minivess.contracts import Spacing

Mask = NDArray[np.bool_]
Points = NDArray[np.int64]
VOXELS: Spacing = (1.0, 1.0, 1.0)


class Region:
    """The voxels of one class in one volume (X, Y, Z)."""

    def __init__(self, mask: Mask) -> None:
        self.mask = mask

    @cached_property
    def size(self) -> int:
        """Number of voxels."""
        return int(np.count_nonzero(self.mask))

    @cached_property
    def skeleton(self) -> Points:
        """Voxel coordinates (N, 3) of the centre lines (Lee 1994).

        Thinning erases some small solid bodies, such as a cube of 2 voxels a side; a region that
        would vanish as a whole is its own skeleton.
        """
        if not self.size:
            return np.empty((0, 3), dtype=np.int64)
        corner, box = self._box
        points = np.argwhere(skeletonize(box))  # type: ignore[no-untyped-call]
        return corner + (points if len(points) else np.argwhere(box))

    @cached_property
    def surface(self) -> Points:
        """Voxel coordinates (N, 3) with a face neighbour outside, beyond the volume included."""
        if not self.size:
            return np.empty((0, 3), dtype=np.int64)
        corner, box = self._box
        return corner + np.argwhere(box & ~_interior(box))

    def contains(self, points: Points) -> float:
        """Share of `points` that lie inside."""
        return float(self.mask[tuple(points.T)].mean())

    def distances(self, points: Points, spacing: Spacing) -> NDArray[np.float64]:
        """From each of `points` to the nearest surface voxel, in the unit of `spacing`."""
        if spacing not in self._trees:
            self._trees[spacing] = cKDTree(self.surface * np.asarray(spacing))
        found: NDArray[np.float64] = self._trees[spacing].query(points * np.asarray(spacing))[0]
        return found

    @cached_property
    def _trees(self) -> dict[Spacing, cKDTree]:
        return {}

    @cached_property
    def _box(self) -> tuple[Points, Mask]:
        low, high = [], []
        for axis in range(3):
            others = tuple(other for other in range(3) if other != axis)
            occupied = np.flatnonzero(self.mask.any(axis=others))
            low.append(occupied[0])
            high.append(occupied[-1] + 1)
        slices = tuple(slice(start, stop) for start, stop in zip(low, high, strict=True))
        return np.array(low, dtype=np.int64), self.mask[slices]


def _interior(box: Mask) -> Mask:
    """Voxels whose six face neighbours are inside too."""
    padded = np.pad(box, 1)
    middle = slice(1, -1)
    inside = box.copy()
    for axis in range(3):
        for neighbour in (slice(0, -2), slice(2, None)):
            inside &= padded[tuple(neighbour if a == axis else middle for a in range(3))]
    return inside
