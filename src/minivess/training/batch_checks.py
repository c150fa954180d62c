"""Check batches against plan and network before a long training."""

from __future__ import annotations

import torch

from minivess import losses
from minivess.contracts import IGNORED, CellSpec, ComputePlan, Shape
from minivess.errors import DataError, PlanError
from minivess.training import distributed
from minivess.training.loaders import Batch, Batches, Volumes

PLAN_AGAIN = "train again with training.retrain=always, which plans anew"
PROFILE_AGAIN = "profile the data again: minivess profile"


def first_of_each(batches: Batches, volumes: Volumes, spec: CellSpec, plan: ComputePlan) -> None:
    """Check the first batch that trains and the first volume that validates, if any does.

    Raises:
        PlanError: another shape than the plan's.
        DataError: another kind of number than the network takes, or labels that are no classes.
    """
    first = batches.batch(0, 0, batches.order(0))
    shape(first, spec, plan, batches.patch(0))
    contents(first, spec)
    if not len(volumes):
        return
    sample = volumes[0]
    whole = Batch((sample["case"],), sample["image"][None], sample["label"][None])
    whole_volume(whole, spec)
    contents(whole, spec)


def shape(batch: Batch, spec: CellSpec, plan: ComputePlan, patch: Shape) -> None:
    """Check a training batch's shape against the epoch's patch.

    Raises:
        PlanError: it is not the plan's patch and batch size with the network's channels.
    """
    size = plan.batch_size // distributed.size()
    expected = (size, spec.network.in_channels, *patch)
    found = (tuple(batch.image.shape), tuple(batch.label.shape))
    if found != (expected, (size, _label_channels(spec), *patch)):
        raise PlanError(
            f"A batch has images of {found[0]} and labels of {found[1]}, but the plan and the "
            f"network say {expected}.",
            remedy=PLAN_AGAIN,
        )


def whole_volume(batch: Batch, spec: CellSpec) -> None:
    """Check a validation volume's shape.

    Raises:
        PlanError: it has not the network's channels.
        DataError: image and label do not cover each other.
    """
    image, label = tuple(batch.image.shape), tuple(batch.label.shape)
    if image[1] != spec.network.in_channels:
        raise PlanError(
            f"{batch.cases[0]} has {image[1]} channels, and the network takes "
            f"{spec.network.in_channels}.",
            remedy=PLAN_AGAIN,
        )
    if label != (1, _label_channels(spec), *image[2:]):
        raise DataError(
            f"{batch.cases[0]} has an image of {image[2:]} and a label of {label[2:]} voxels.",
            remedy=PROFILE_AGAIN,
        )


def _label_channels(spec: CellSpec) -> int:
    return 2 if losses.needs_skeleton(spec.loss) else 1


def _highest(label: torch.Tensor, *, ignores: bool) -> int:
    known = label[label != IGNORED] if ignores else label
    return int(known.max()) if known.numel() else 0


def contents(batch: Batch, spec: CellSpec) -> None:
    """Check what a batch is made of: images of float32, labels that are class numbers.

    Raises:
        DataError: it is anything else; the cases are named.
    """
    cases, classes = ", ".join(sorted(set(batch.cases))), spec.network.out_channels
    if (batch.image.dtype, batch.label.dtype) != (torch.float32, torch.uint8):
        problem = f"images of {batch.image.dtype} and labels of {batch.label.dtype}"
    elif (highest := _highest(batch.label, ignores=spec.ignores)) >= classes:
        problem = f"labels up to {highest}, where there are {classes} classes"
    else:
        return
    raise DataError(f"{cases} came with {problem}.", remedy=PROFILE_AGAIN)
