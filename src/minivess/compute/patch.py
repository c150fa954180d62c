"""Arithmetic of patch sizes: divisors, volumes that fit, the next smaller patch."""

from __future__ import annotations

from collections.abc import Mapping

from minivess.contracts import DatasetProfile, Shape
from minivess.errors import PlanError

FLOOR = 16
"""Voxels along an axis below which a patch is not shrunk: smaller ones show no vessel."""


def shapes_of(profile: DatasetProfile) -> dict[str, Shape]:
    """Case -> shape."""
    return {volume.case: volume.shape for volume in profile.volumes}


def fitting(wanted: Shape, divisor: Shape, shapes: Mapping[str, Shape]) -> Shape:
    """The largest multiple of the divisor within `wanted`, on each axis.

    Raises:
        PlanError: an axis is below its divisor; the thinnest volume is named.
    """
    sides = [side // step * step for side, step in zip(wanted, divisor, strict=True)]
    if 0 in sides:
        axis = sides.index(0)
        thinnest = min(shapes, key=lambda case: shapes[case][axis])
        raise PlanError(
            f"{thinnest} has {shapes[thinnest][axis]} voxels along {'xyz'[axis]}, and the network "
            f"needs at least {divisor[axis]}.",
            remedy="compute.patch_strategy=median_pad pads it; or fewer levels "
            "(model.filters=[8,16,32]); or a network that takes thin volumes "
            "(training.models=[dynunet])",
        )
    return (sides[0], sides[1], sides[2])


def nearest(patch: Shape, divisor: Shape, shapes: Mapping[str, Shape]) -> Shape:
    """The patch closest to the one asked for that divides and fits every volume."""
    sides = []
    for axis, (side, step) in enumerate(zip(patch, divisor, strict=True)):
        largest = min(shape[axis] for shape in shapes.values()) // step * step
        sides.append(max(step, min(round(side / step) * step, largest)))
    return (sides[0], sides[1], sides[2])


def growing(patch: Shape, divisor: Shape) -> tuple[Shape, ...]:
    """Half and three quarters of a patch; thin sides, which show no vessel if smaller, stay."""
    found = []
    for share in (0.5, 0.75):
        x, y, z = (
            min(side, max(-(-FLOOR // step) * step, round(share * side / step) * step))
            for side, step in zip(patch, divisor, strict=True)
        )
        found.append((x, y, z))
    return tuple(one for one in dict.fromkeys(found) if one != patch)


def within(part: Shape, patch: Shape) -> bool:
    """Whether no side of a patch is longer than that of another."""
    return all(side <= most for side, most in zip(part, patch, strict=True))


def padding(shapes: Mapping[str, Shape], patch: Shape) -> dict[str, Shape]:
    """Case -> voxels that each axis lacks, for the volumes that are smaller than the patch."""
    missing = {}
    for case, shape in shapes.items():
        x, y, z = (max(0, side - have) for side, have in zip(patch, shape, strict=True))
        if x or y or z:
            missing[case] = (x, y, z)
    return missing


def step_down(
    patch: Shape,
    batch: int,
    *,
    divisor: Shape,
    keep_patch: bool = False,
    keep_batch: bool = False,
) -> tuple[Shape, int] | None:
    """One step towards less memory, or None when nothing is left to give.

    The largest axis loses one divisor; once every axis is at its floor, the batch halves.
    """
    floors = [-(-FLOOR // step) * step for step in divisor]
    axes = [axis for axis in range(3) if patch[axis] - divisor[axis] >= floors[axis]]
    if axes and not keep_patch:
        largest = max(axes, key=lambda axis: patch[axis])
        sides = [side - divisor[axis] * (axis == largest) for axis, side in enumerate(patch)]
        return (sides[0], sides[1], sides[2]), batch
    if batch > 1 and not keep_batch:
        return patch, batch // 2
    return None
