"""One binary mask with its size, skeleton and surface, each computed once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from skimage.morphology import skeletonize

from minivess import files
from minivess.contracts import Spacing
from minivess.keys import source_digest

Mask = NDArray[np.bool_]
Points = NDArray[np.int32]
VOXELS: Spacing = (1.0, 1.0, 1.0)


class Region:
    """The voxels of one class in one volume (X, Y, Z)."""

    def __init__(self, mask: Mask, kept: Path | None = None) -> None:
        self.mask = mask
        self.kept = kept

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
        return self._points("skeleton", _skeleton)

    @cached_property
    def surface(self) -> Points:
        """Voxel coordinates (N, 3) with a face neighbour outside, beyond the volume included."""
        return self._points("surface", _surface)

    def _points(self, name: str, find: Callable[[Mask], NDArray[np.int64]]) -> Points:
        """What `find` finds in the region's box, computed or read from where it is kept."""
        if not self.size:
            return np.empty((0, 3), dtype=np.int32)
        file = self.kept / f"{self._digest}-{name}.npy" if self.kept else None
        if file is not None and file.is_file():
            found: Points = np.load(file)
            return found
        corner, box = self._box
        points = (corner + find(box)).astype(np.int32)
        if file is not None:
            files.write(file, lambda temporary: np.save(temporary, points))
        return points

    @cached_property
    def _digest(self) -> str:
        """Of the mask and of the code that looks at it."""
        content = f"{self.mask.shape} {_recipe()}".encode() + np.packbits(self.mask).tobytes()
        return hashlib.blake2b(content, digest_size=16).hexdigest()

    @cached_property
    def betti(self) -> tuple[int, int]:
        """Number of components, joined across corners as well, and of loops (tunnels)."""
        if not self.size:
            return 0, 0
        import cc3d
        from skimage.measure import euler_number

        box = np.pad(self._box[1], 1)
        _, parts = cc3d.connected_components(box, connectivity=26, return_N=True)
        _, outside = cc3d.connected_components(~box, connectivity=6, return_N=True)
        # Euler's number is components - loops + cavities; what surrounds the box is no cavity.
        euler = int(euler_number(box, connectivity=3))  # type: ignore[no-untyped-call]
        return parts, parts + outside - 1 - euler

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
    def _box(self) -> tuple[NDArray[np.int64], Mask]:
        low, high = [], []
        for axis in range(3):
            others = tuple(other for other in range(3) if other != axis)
            occupied = np.flatnonzero(self.mask.any(axis=others))
            low.append(occupied[0])
            high.append(occupied[-1] + 1)
        slices = tuple(slice(start, stop) for start, stop in zip(low, high, strict=True))
        return np.array(low, dtype=np.int64), self.mask[slices]


@cache
def _recipe() -> str:
    return f"{source_digest(Path(__file__))} {version('scikit-image')}"


def _skeleton(box: Mask) -> NDArray[np.int64]:
    points = np.argwhere(skeletonize(box))  # type: ignore[no-untyped-call]
    return points if len(points) else np.argwhere(box)


def _surface(box: Mask) -> NDArray[np.int64]:
    return np.argwhere(box & ~_interior(box))


def _interior(box: Mask) -> Mask:
    """Voxels whose six face neighbours are inside too."""
    padded = np.pad(box, 1)
    middle = slice(1, -1)
    inside = box.copy()
    for axis in range(3):
        for neighbour in (slice(0, -2), slice(2, None)):
            inside &= padded[tuple(neighbour if a == axis else middle for a in range(3))]
    return inside
