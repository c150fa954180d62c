"""Skeletons of masks (B, C, X, Y, Z).

By erosion and dilation, differentiable for soft masks, after Shit et al., "clDice", CVPR 2021.
Voxels outside the volume are ignored, so a vessel that leaves a thin stack through its first or
last slice is not eroded there. By thinning, tubed, after Kirchhoff et al., "Skeleton Recall Loss",
ECCV 2024.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, distance_transform_edt
from torch import Tensor
from torch.nn import functional as nnf

AXES = (2, 3, 4)


class _Extreme(torch.autograd.Function):
    """Largest or smallest of each voxel and its face neighbours along some axes.

    Pooling layers do the same, but are ten times slower forwards on a CPU; plain slices are as
    quick forwards and far slower backwards.
    """

    @staticmethod
    def forward(ctx: Any, volume: Tensor, axes: tuple[int, ...], largest: bool) -> Tensor:
        best = _best(volume, axes, largest=largest)
        ctx.axes = axes
        ctx.save_for_backward(volume, best)
        return best

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """The gradient goes to the voxel itself if it is the best, else to one neighbour."""
        volume, best = ctx.saved_tensors
        own = gradients[0] * (volume == best)
        rest = gradients[0] - own
        for axis in ctx.axes:
            last = volume.shape[axis] - 1
            for here, there in ((1, 0), (0, 1)):
                waiting = rest.narrow(axis, here, last)
                equal = volume.narrow(axis, there, last) == best.narrow(axis, here, last)
                given = waiting * equal
                waiting -= given
                own.narrow(axis, there, last).add_(given)
        return own, None, None


def _best(volume: Tensor, axes: tuple[int, ...], *, largest: bool) -> Tensor:
    better = torch.maximum if largest else torch.minimum
    return functools.reduce(better, (_best_of_three(volume, axis, better) for axis in axes))


def _best_of_three(volume: Tensor, axis: int, better: Callable[..., Tensor]) -> Tensor:
    last = volume.shape[axis] - 1
    pairs = better(volume.narrow(axis, 0, last), volume.narrow(axis, 1, last))
    inside = better(pairs.narrow(axis, 0, last - 1), pairs.narrow(axis, 1, last - 1))
    return torch.cat([pairs.narrow(axis, 0, 1), inside, pairs.narrow(axis, last - 1, 1)], axis)


def _extreme(volume: Tensor, axes: tuple[int, ...], *, largest: bool) -> Tensor:
    axes = tuple(axis for axis in axes if volume.shape[axis] > 1)
    if not axes:
        return volume
    if not volume.requires_grad:
        return _best(volume, axes, largest=largest)
    result: Tensor = _Extreme.apply(volume, axes, largest)  # type: ignore[no-untyped-call]
    return result


def eroded(volume: Tensor) -> Tensor:
    """The minimum over each voxel and its six face neighbours."""
    return _extreme(volume, AXES, largest=False)


def dilated(volume: Tensor) -> Tensor:
    """The maximum over the 3 x 3 x 3 neighbourhood."""
    for axis in AXES:
        volume = _extreme(volume, (axis,), largest=True)
    return volume


def soft(volume: Tensor, iterations: int) -> Tensor:
    """The skeleton of a soft mask, 0 to 1: at each erosion, what an opening would lose."""
    inner = eroded(volume)
    line = nnf.relu(volume - dilated(inner))
    for _ in range(iterations):
        volume, inner = inner, eroded(inner)
        lost = nnf.relu(volume - dilated(inner))
        line = line + nnf.relu(lost - line * lost)
    return line


def hard(mask: Tensor, limit: int) -> tuple[Tensor, int]:
    """The skeleton of a boolean mask, and after how many erosions, at most `limit`, it is empty.

    The skeleton is that of `soft` with as many iterations.
    """
    line = torch.zeros_like(mask)
    for count in range(limit + 1):
        if not bool(mask.any()):
            return line, count
        inner = eroded(mask.byte()).bool()
        line |= mask & ~dilated(inner.byte()).bool()
        mask = inner
    return line, limit


def tubed(labels: Tensor) -> Tensor:
    """Class indices (B, 1, X, Y, Z), kept only within two voxels of the foreground's centerline.

    On the CPU: for each voxel this takes longer than a training step.
    """
    found = [_tubed(volume[0].cpu().numpy()) for volume in labels]
    return torch.from_numpy(np.stack(found))[:, None].to(labels.device)


def _tubed(labels: NDArray[Any]) -> NDArray[Any]:
    from skimage.morphology import skeletonize

    if not labels.any():
        return labels
    line = skeletonize(labels > 0)  # type: ignore[no-untyped-call]
    near: NDArray[Any] = labels * binary_dilation(line, iterations=2)
    return near


def distance(mask: Tensor) -> Tensor:
    """Euclidean distance of each voxel of a boolean mask to the nearest one outside, in voxels.

    A volume that is mask throughout has no outside; its distances are 1.
    """
    volumes = mask.flatten(0, 1).cpu().numpy()
    found = [one if one.all() else distance_transform_edt(one) for one in volumes]
    return torch.from_numpy(np.stack(found)).reshape(mask.shape).to(mask.device, torch.float32)
