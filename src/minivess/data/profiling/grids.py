"""Grids of image and label in world space, and voxel sizes stated in the settings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
from nibabel.orientations import apply_orientation, inv_ornt_aff

from minivess import units
from minivess.config import DataConfig
from minivess.formats.decode import Volume, is_invertible, spacing_of

TOLERANCE = 1e-3  # of a voxel; headers jitter in the last digits of float32
TURNED = 1e-2  # how far directions may be from those of flipped or exchanged axes

Affine = npt.NDArray[np.float64]


def align_label(label: Volume, image: Volume) -> Volume:
    """Return the label on its image's grid if flipping or exchanging axes suffices, else itself.

    Nothing is interpolated; both headers have to name the same place for every voxel.
    """
    if label.placed != image.placed or not is_grid(image):
        return label
    for factor in _factors(label, image):
        turn = _turn(label.affine[:3, :3] * factor, image.affine[:3, :3])
        if turn is None:
            continue
        axes = np.abs(turn).argmax(axis=0)  # for each axis of the label that of the image
        way = np.column_stack([axes, turn[axes, range(3)]])
        turned = replace(
            label,
            array=apply_orientation(label.array, way),
            affine=label.affine @ inv_ornt_aff(way, label.shape),
            spacing=spacing_of(label.spacing[axis] for axis in np.argsort(axes)),
        )
        if turned.shape == image.shape and same_place(turned, image):
            return turned
    return label


def same_place(label: Volume, image: Volume) -> bool:
    """Whether the corners of both grids coincide within a small part of a voxel."""
    corners = np.array([[0, 0, 0, 1], [*image.shape, 1]], dtype=float)
    voxel = min((step for step in image.spacing if step > 0), default=1.0)
    allowed = TOLERANCE * voxel * max(image.shape)
    scales = (np.array([factor] * 3 + [1.0])[:, None] for factor in _factors(label, image))
    return any(
        np.abs(corners @ (image.affine - label.affine * scale).T).max() <= allowed
        for scale in scales
    )


def describe_mismatch(label: Volume, image: Volume) -> str:
    """Describe how the grid of a label differs from that of its image."""
    factor = _factors(label, image)[0]
    if not np.allclose(np.array(label.spacing) * factor, image.spacing, rtol=1e-3):
        return (
            f"the label's voxels are {voxel_size_text(label)}, the image's {voxel_size_text(image)}"
        )
    first, second = (each.affine[:3, :3] / np.array(each.spacing) for each in (label, image))
    if np.linalg.det(first) * np.linalg.det(second) < 0:
        return "the label's axes are those of a mirror image"
    angle = np.degrees(np.arccos(np.clip((np.trace(second.T @ first) - 1) / 2, -1, 1)))
    if angle > 0.1:
        return f"the label is turned by {angle:.1f} degrees"
    shift = label.affine[:3, 3] * factor - image.affine[:3, 3]
    return f"the label is shifted by {units.spacing_text(shift, image.unit)}"


def with_stated_spacing(volume: Volume, config: DataConfig) -> Volume:
    """Return the volume with the voxel size of `data.spacing`, if set; overrides are remarked."""
    if config.spacing is None:
        return volume
    factors, unit = units.common_unit([config.unit] * 3)
    steps = np.array(config.spacing) * factors
    spacing = spacing_of(steps)
    if unit == volume.unit and np.allclose(spacing, volume.spacing, rtol=1e-4):
        return replace(volume, spacing_known=True)
    affine = np.diag([*spacing, 1.0])
    remarks = volume.remarks
    if is_grid(volume):
        affine = volume.affine.copy()
        affine[:3, :3] *= steps / volume.spacing
        own = np.array(volume.spacing) * _factors(volume, replace(volume, unit=unit))[0]
        if volume.spacing_known and not np.allclose(own, spacing, rtol=1e-3):
            said = f"data.spacing is used; the file states {voxel_size_text(volume)}."
            remarks = (*remarks, ("spacing_overridden", said))
    sized = replace(volume, spacing=spacing, unit=unit, affine=affine, spacing_known=True)
    return replace(sized, alone=False, remarks=remarks)


def voxel_size_text(volume: Volume) -> str:
    """Format the voxel size of a volume."""
    return units.spacing_text(volume.spacing, volume.unit)


def is_grid(volume: Volume) -> bool:
    """Whether voxels have a size, and the affine is invertible."""
    has_sizes = units.positive_spacing(volume.spacing)[1]
    return has_sizes and is_invertible(volume.affine)


def _factors(label: Volume, image: Volume) -> tuple[float, ...]:
    """Return factors from the label's unit to the image's; 1 as well, as if both had one unit.

    Many tools write mm whatever the unit was.
    """
    both = units.in_micron(label.unit), units.in_micron(image.unit)
    return (both[0] / both[1], 1.0) if both[0] and both[1] else (1.0,)


def _turn(label: Affine, image: Affine) -> Affine | None:
    """Return the direction (-1, 0, 1) of label axes along image axes; None if oblique or equal."""
    if not np.isfinite(label).all():
        return None
    found = np.linalg.solve(image, label)
    turn = np.rint(found)
    is_exchange = (np.abs(turn).sum(axis=0) == 1).all() and (np.abs(turn).sum(axis=1) == 1).all()
    if not is_exchange or np.abs(found - turn).max() > TURNED or (turn == np.eye(3)).all():
        return None
    return np.asarray(turn, dtype=np.float64)
