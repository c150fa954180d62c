"""Load cases (fixed transforms) and cut augmented patches from them (random transforms)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from monai.transforms.compose import Compose
from monai.transforms.croppad.array import SpatialPad
from monai.transforms.transform import Randomizable, Transform
from numpy.typing import NDArray

from minivess import inference, losses, soft_skeleton
from minivess.config import Augmentation, ResamplingConfig
from minivess.contracts import IGNORED, Case, CellSpec, ComputePlan, Shape
from minivess.errors import DataError, PlanError
from minivess.formats import volume
from minivess.training import augmentation
from minivess.training.augmentation import KEYS

Sample = dict[str, Any]
TRIES = 100  # patches drawn, at most, until one holds an annotated voxel


def seed_of(*parts: int | str) -> int:
    """A seed below 2**63 that is a function of its parts alone."""
    text = ":".join(map(str, parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1


class LoadCase(Transform):
    """Case -> image (1, X, Y, Z) float32 normalised and label (1, X, Y, Z) uint8 class indices."""

    def __init__(self, spec: CellSpec, resampling: ResamplingConfig) -> None:
        self.spec = spec
        self.resampling = resampling

    def __call__(self, case: Case) -> Sample:
        """Read, map, normalise.

        Raises:
            DataError: no label, or a label value that the profile does not know.
        """
        image, label, read = volume.load(
            case, label_map=self.spec.label_map, resampling=self.resampling
        )
        if label is None:
            raise DataError(
                f"The case {case.case} has no label, so it can neither train nor validate.",
                remedy="add its label, or remove its image",
            )
        normal = inference.normalise(image, self.spec.window)
        return {
            "case": case.case,
            "group": case.group,
            "spacing": read.spacing,
            "image": torch.from_numpy(np.ascontiguousarray(normal)),
            "label": torch.from_numpy(
                volume.class_indices(label, self.spec.classes, case.case)[None]
            ),
        }


class AddSkeleton(Transform):
    """Adds the tubed skeleton as second channel of the label, once for each volume.

    A patch cut from it has the skeleton of the whole volume, without ends where the patch ends.
    """

    def __call__(self, sample: Sample) -> Sample:
        """Crops, flips and turns then move both channels alike."""
        label = sample["label"]
        known = label.masked_fill(label == IGNORED, 0)
        return {**sample, "label": torch.cat([label, soft_skeleton.tubed(known[None])[0]])}


class FitPatch(Transform):
    """Volumes that the plan pads are padded with zeros on both sides; others must hold a patch."""

    def __init__(self, plan: ComputePlan) -> None:
        self.patch = plan.patch_size
        self.padded = plan.padded

    def __call__(self, sample: Sample) -> Sample:
        """Pad, or check.

        Raises:
            PlanError: the patch is larger than a volume that is not to be padded.
        """
        shape = tuple(sample["image"].shape[1:])
        if all(have >= need for have, need in zip(shape, self.patch, strict=True)):
            return sample
        if sample["case"] not in self.padded:
            raise PlanError(
                f"A patch of {self.patch} does not fit {sample['case']}, which has {shape}.",
                remedy="leave out training.patch_size, or use compute.patch_strategy=median_pad",
            )
        pad = SpatialPad(self.patch)
        return {**sample, **{key: pad(sample[key]) for key in KEYS}}


class FindForeground(Transform):
    """Adds `foreground`: for each class that occurs, the flat positions of its voxels.

    And `partial`: whether there are voxels without annotation.
    """

    def __call__(self, sample: Sample) -> Sample:
        """Background positions are not kept: they would take 8 bytes for each voxel."""
        flat = sample["label"][0].numpy().ravel()
        known = flat if flat.max() < IGNORED else flat[flat < IGNORED]
        highest = int(known.max(initial=0))
        found = [np.flatnonzero(flat == index) for index in range(1, highest + 1)]
        narrow = np.int32 if flat.size < 2**31 else np.int64
        return {
            **sample,
            "foreground": [at.astype(narrow) for at in found if at.size],
            "partial": known.size < flat.size,
        }


class CropPatch(Randomizable, Transform):
    """Cuts one patch: around a foreground voxel, each class as often, or anywhere.

    A patch without any annotated voxel is drawn again.
    """

    def __init__(self, patch: Shape, foreground_ratio: float) -> None:
        self.patch = np.array(patch)
        self.foreground_ratio = foreground_ratio

    def corner(self, data: Sample) -> NDArray[np.int64]:
        """Draw the patch's first voxel."""
        shape = np.array(data["label"].shape[1:])
        room = shape - self.patch
        anywhere: NDArray[np.int64] = (self.R.random_sample(3) * (room + 1)).astype(np.int64)
        if not data["foreground"] or self.R.random_sample() >= self.foreground_ratio:
            return anywhere
        voxels = data["foreground"][self.R.randint(len(data["foreground"]))]
        centre = np.unravel_index(int(voxels[self.R.randint(len(voxels))]), tuple(shape))
        around: NDArray[np.int64] = np.clip(np.array(centre) - self.patch // 2, 0, room)
        return around

    def box(self, data: Sample) -> tuple[slice, ...]:
        """Draw the patch as an index into image and label."""
        start = self.corner(data)
        return (slice(None), *(slice(a, a + n) for a, n in zip(start, self.patch, strict=True)))

    def __call__(self, data: Sample) -> Sample:
        """The patch as its own memory: the volume stays in the cache untouched."""
        box = self.box(data)
        for _ in range(TRIES if data["partial"] else 0):
            if (data["label"][box] != IGNORED).any():
                break
            box = self.box(data)
        return {"case": data["case"], **{key: data[key][box].clone() for key in KEYS}}


def fixed(spec: CellSpec, resampling: ResamplingConfig) -> Compose:
    """What a validation volume goes through, once."""
    return Compose(_loaded(spec, resampling))


def fixed_for_training(spec: CellSpec, plan: ComputePlan, resampling: ResamplingConfig) -> Compose:
    """What a training volume goes through, once."""
    return Compose([*_loaded(spec, resampling), FitPatch(plan), FindForeground()])


def _loaded(spec: CellSpec, resampling: ResamplingConfig) -> list[Transform]:
    skeleton = [AddSkeleton()] if losses.needs_skeleton(spec.loss) else []
    return [LoadCase(spec, resampling), *skeleton]


def drawn(patch: Shape, *, foreground_ratio: float, augment: Augmentation) -> Compose:
    """What is drawn anew for each patch: its place, and a set of changes."""
    crop = CropPatch(patch, foreground_ratio)
    return Compose([crop, *augmentation.transforms(augment, patch)])


def draw(transform: Compose, sample: Mapping[str, Any], seed: int) -> Sample:
    """One patch of a volume, a function of the seed alone."""
    transform.set_random_state(seed=seed)
    patch: Sample = transform(dict(sample))
    return patch
