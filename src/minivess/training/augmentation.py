"""Sets of random changes of a patch, each change a function of the seed.

`light` flips, turns by quarters and changes contrast, brightness and noise a little; `full` adds
free rotations and scaling, and what microscopes do to images of vessels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from monai.transforms.intensity.dictionary import (
    RandAdjustContrastd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandScaleIntensityd,
    RandStdShiftIntensityd,
)
from monai.transforms.spatial.dictionary import RandFlipd, RandRotate90d
from monai.transforms.transform import RandomizableTransform, Transform
from torch import Tensor
from torch.nn import functional

from minivess.contracts import IGNORED, Shape

KEYS = ("image", "label")
MOST_TURN = 0.5  # radians in the plane
SCALES = (0.8, 1.25)
COARSEST = 3  # slices that share one where resolution is lost
DRIFT = 0.08  # deviation of gain and offset from one slice to the next
PHOTON_NOISE = 0.3  # deviation at the brightest voxel, in those of the patch
GAPS = 3  # at most
GAP_RADIUS = (2.0, 5.0)  # voxels in the plane


def transforms(kind: Literal["none", "light", "full"], patch: Shape) -> list[Transform]:
    """Return the changes of a set in their order, for patches of this size."""
    if kind == "none":
        return []
    flips = [RandFlipd(KEYS, prob=0.5, spatial_axis=axis) for axis in range(3)]
    square = patch[0] == patch[1]
    turns = [RandRotate90d(KEYS, prob=0.5, max_k=3, spatial_axes=(0, 1))] if square else []
    light = [
        RandScaleIntensityd("image", factors=0.15, prob=0.3),
        RandStdShiftIntensityd("image", factors=0.1, prob=0.3),
        RandGaussianNoised("image", std=0.05, prob=0.15),
    ]
    if kind == "light":
        return [*flips, *turns, *light]
    return [
        *flips,
        *turns,
        TurnAndScale(0.3),
        BrokenVessels(0.2),
        RandGaussianSmoothd("image", (0.5, 1.0), (0.5, 1.0), (0.0, 0.5), prob=0.15),
        CoarseSlices(0.15),
        RandAdjustContrastd("image", prob=0.3, gamma=(0.7, 1.5), retain_stats=True),
        SliceDrift(0.15),
        *light,
        PhotonNoise(0.15),
    ]


class Change(RandomizableTransform, Transform):
    """Changes a patch with probability `prob`; `self.R` draws by how much."""

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Return the patch, changed or as it is."""
        self.randomize(None)
        return {
            **data,
            **(self.changed(data["image"], data["label"]) if self._do_transform else {}),
        }

    def changed(self, image: Tensor, label: Tensor) -> dict[str, Tensor]:
        """Return what changes of image and label, (C, X, Y, Z)."""
        raise NotImplementedError

    def _noise(self, shape: tuple[int, ...]) -> Tensor:
        return torch.from_numpy(self.R.normal(size=shape).astype("float32"))


class TurnAndScale(Change):
    """Rotates in the plane and scales along each axis; the label takes the nearest voxel."""

    def changed(self, image: Tensor, label: Tensor) -> dict[str, Tensor]:
        """Interpolate the image linearly; beyond the patch its last voxels go on."""
        x, y, _ = image.shape[1:]
        turn = torch.tensor(self.R.uniform(-MOST_TURN, MOST_TURN))
        scales = 1 / torch.tensor(self.R.uniform(*SCALES, size=2))
        # Coordinates run from -1 to 1 along each axis, the last one first.
        cosine, sine = turn.cos(), turn.sin()
        theta = torch.zeros(1, 3, 4, dtype=torch.float32)
        theta[0, 0, 0] = 1
        theta[0, 1, 1:3] = torch.stack([cosine * scales[0], -sine * scales[0] * x / y])
        theta[0, 2, 1:3] = torch.stack([sine * scales[1] * y / x, cosine * scales[1]])
        grid = functional.affine_grid(theta, [1, 1, *image.shape[1:]], align_corners=False)

        def sampled(volume: Tensor, mode: str) -> Tensor:
            found = functional.grid_sample(
                volume[None].float(), grid, mode=mode, padding_mode="border", align_corners=False
            )
            return found[0].to(volume.dtype)

        return {"image": sampled(image, "bilinear"), "label": sampled(label, "nearest")}


class BrokenVessels(Change):
    """Vessels with gaps in the image that the label does not have (after CoLeTra, 2025)."""

    def changed(self, image: Tensor, label: Tensor) -> dict[str, Tensor]:
        """Put voxels of the background into balls around voxels of the foreground."""
        vessel = (label[0] > 0) & (label[0] < IGNORED)
        inside, outside = vessel.nonzero(), image[0][label[0] == 0]
        if not len(inside) or not len(outside):
            return {}
        image = image.clone()
        for _ in range(self.R.randint(1, GAPS + 1)):
            centre = inside[self.R.randint(len(inside))]
            near = ((inside - centre) ** 2).sum(1) <= self.R.uniform(*GAP_RADIUS) ** 2
            x, y, z = inside[near].unbind(1)
            image[0, x, y, z] = outside[torch.from_numpy(self.R.randint(len(outside), size=len(x)))]
        return {"image": image}


class CoarseSlices(Change):
    """Resolution lost along the coarse axis: some slices are left, others lie between them."""

    def changed(self, image: Tensor, label: Tensor) -> dict[str, Tensor]:
        """Take a slice of each few, and interpolate."""
        x, y, z = image.shape[1:]
        left = max(2, round(z / self.R.uniform(1, COARSEST)))
        if left >= z:
            return {}
        coarse = functional.interpolate(image[None], (x, y, left), mode="nearest")
        return {"image": functional.interpolate(coarse, (x, y, z), mode="trilinear")[0]}


class SliceDrift(Change):
    """Gain and offset that drift from slice to slice."""

    def changed(self, image: Tensor, label: Tensor) -> dict[str, Tensor]:
        """Change each slice by a random walk along z."""
        gain, offset = DRIFT * self._noise((2, 1, 1, image.shape[3])).cumsum(-1)
        return {"image": image * (1 + gain) + offset * image.std()}


class PhotonNoise(Change):
    """Noise whose variance grows with brightness, as that of counted photons."""

    def changed(self, image: Tensor, label: Tensor) -> dict[str, Tensor]:
        """Add Gaussian noise, none in the darkest voxel."""
        low, high = image.min(), image.max()
        share = ((image - low) / (high - low).clamp(min=1e-6)).sqrt()
        most = self.R.uniform(0, PHOTON_NOISE) * image.std()
        return {"image": image + most * share * self._noise(tuple(image.shape))}
