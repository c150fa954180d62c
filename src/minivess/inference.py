"""A network over a whole volume: one way for validation, analysis, export, service and command."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from minivess.contracts import Shape, Window

if TYPE_CHECKING:
    from torch import Tensor

Array = NDArray[np.float32]
Precision = Literal["none", "bf16", "fp16"]
REPORTED: Precision = "none"
"""Every figure that is reported and every mask: float32, also where training computes in bf16."""
WINDOWS_AT_ONCE = 4
CPU_VOXELS, GPU_VOXELS = 2**18, 2**22
"""Voxels in one forward: small windows go faster together, large ones only take more memory."""


def normalise(image: Array, how: Literal["zscore", "minmax", "none"]) -> Array:
    """Scale the intensities of each channel of (C, X, Y, Z) over its whole volume."""
    if how == "none":
        return image.astype(np.float32, copy=False)
    axes = (1, 2, 3)
    if how == "minmax":
        low = image.min(axis=axes, keepdims=True)
        width = image.max(axis=axes, keepdims=True) - low
    else:
        low = image.mean(axis=axes, keepdims=True, dtype=np.float64).astype(np.float32)
        width = image.std(axis=axes, keepdims=True, dtype=np.float64).astype(np.float32)
    scaled: Array = (image - low) / np.where(width > 0, width, 1).astype(np.float32)
    return scaled.astype(np.float32, copy=False)


def roi(shape: Shape, window: Window, divisor: Shape) -> Shape:
    """The window for one volume: never larger than the volume rounded up to the divisor."""
    sides = [
        min(patch, -(-extent // step) * step)
        for extent, patch, step in zip(shape, window.patch_size, divisor, strict=True)
    ]
    return (sides[0], sides[1], sides[2])


def windows(shape: Shape, window: Window, divisor: Shape) -> int:
    """How many windows the sliding window takes over a volume."""
    count = 1
    for extent, side in zip(shape, roi(shape, window, divisor), strict=True):
        stride = side if side >= extent else max(1, int(side * (1 - window.overlap)))
        count *= 1 if side >= extent else -(-(extent - side) // stride) + 1
    return count


def logits(
    forward: Callable[[Tensor], Tensor],
    image: Array,
    window: Window,
    *,
    divisor: Shape,
    device: str = "cpu",
    precision: Precision = REPORTED,
) -> Array:
    """Run a network over a normalised image (C, X, Y, Z); returns (C_out, X, Y, Z) float32.

    Overlapping windows are blended by a Gaussian. The result is put together in main memory, so
    that the size of a volume is not limited by the GPU's.
    """
    import torch
    from monai.inferers.utils import sliding_window_inference

    x, y, z = image.shape[1:]
    with torch.inference_mode(), _autocast(device, precision):
        blended = sliding_window_inference(
            torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))[None],
            roi_size=roi((x, y, z), window, divisor),
            sw_batch_size=at_once(window.patch_size, device),
            predictor=lambda part: forward(part).float(),
            overlap=window.overlap,
            mode="gaussian",
            sw_device=device,
            device="cpu",
        )
    result: Array = blended[0].numpy()
    return result


def at_once(patch: Shape, device: str) -> int:
    """How many windows go through the network together."""
    voxels = CPU_VOXELS if device == "cpu" else GPU_VOXELS
    return max(1, min(WINDOWS_AT_ONCE, voxels // math.prod(patch)))


def _autocast(device: str, precision: Precision) -> Any:
    import torch

    if precision == "none":
        return _float32()
    kind = torch.bfloat16 if precision == "bf16" else torch.float16
    return torch.autocast(torch.device(device).type, dtype=kind)


@contextmanager
def _float32() -> Iterator[None]:
    """A GPU would compute convolutions in TF32, ten bits, where nobody asks for more."""
    import torch

    kept = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = kept


def probabilities(logits: Array) -> Array:
    """Softmax over the channels of (C, X, Y, Z)."""
    powers = np.exp(logits - logits.max(axis=0, keepdims=True))
    shares: Array = powers / powers.sum(axis=0, keepdims=True)
    return shares


def mask(logits: Array) -> NDArray[np.uint8]:
    """The most likely class of each voxel, (X, Y, Z)."""
    classes: NDArray[np.uint8] = logits.argmax(axis=0).astype(np.uint8)
    return classes
