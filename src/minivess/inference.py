"""A network over a whole volume: one way for validation, analysis, export, service and command."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from minivess import networks
from minivess.config import ExperimentConfig
from minivess.contracts import Network, Scale, Shape, VolumeStats, Window
from minivess.errors import DataError, ServingError

if TYPE_CHECKING:
    from torch import Tensor

Array = NDArray[np.float32]
Forward = Callable[["Tensor"], "Tensor"]
Precision = Literal["none", "bf16", "fp16"]
REPORTED: Precision = "none"
"""Every figure that is reported and every mask: float32, also where training computes in bf16."""
MIRRORED_AXES = {"none": (), "plane": (0, 1), "all": (0, 1, 2)}
WINDOWS_AT_ONCE = 4
CPU_VOXELS, GPU_VOXELS = 2**18, 2**22
"""Voxels in one forward: small windows go faster together, large ones only take more memory."""


def window_for(config: ExperimentConfig, size: Shape, train: Sequence[VolumeStats]) -> Window:
    """Return how a network is run over volumes, in windows of this size, after training."""
    asked, how = config.training, config.data.normalisation
    return Window(
        patch_size=size,
        overlap=asked.sliding_window_overlap,
        normalisation=how,
        scale=_scale(train) if how == "dataset" else None,
        mirrored=MIRRORED_AXES[asked.mirroring],
        resampling=config.data.resampling.as_record(),
    )


def _scale(train: Sequence[VolumeStats]) -> Scale:
    """The mean and deviation of all volumes alike; within the limits lie 99 % of each volume."""
    means = np.array([volume.intensity_mean for volume in train])
    squares = np.array([volume.intensity_std for volume in train]) ** 2 + means**2
    return Scale(
        low=min(volume.percentiles["0.5"] for volume in train),
        high=max(volume.percentiles["99.5"] for volume in train),
        mean=float(means.mean()),
        std=math.sqrt(max(0.0, float(squares.mean() - means.mean() ** 2))),
    )


def normalise(image: Array, window: Window) -> Array:
    """Scale the intensities of (C, X, Y, Z): each channel over its volume, or as stored."""
    return scaling(image, window)(image)


def scaling(image: Array, window: Window) -> Callable[[Array], Array]:
    """Return what scales parts of (C, X, Y, Z) as the whole is scaled, and makes them float32."""
    how, scale, axes = window.normalisation, window.scale, (1, 2, 3)
    if how == "none":
        return lambda part: part.astype(np.float32, copy=False)
    if scale is not None:
        shift, width = np.array(scale.mean), np.array(scale.std)
    elif how == "minmax":
        shift = image.min(axis=axes, keepdims=True).astype(np.float32)
        width = image.max(axis=axes, keepdims=True).astype(np.float32) - shift
    else:
        shift = image.mean(axis=axes, keepdims=True, dtype=np.float64)
        width = image.std(axis=axes, keepdims=True, dtype=np.float64)
    shift, width = shift.astype(np.float32), width.astype(np.float32)
    width = np.where(width > 0, width, np.float32(1))

    def scaled(part: Array) -> Array:
        kept = part if scale is None else part.clip(scale.low, scale.high).astype(np.float32)
        result: Array = ((kept - shift) / width).astype(np.float32, copy=False)
        return result

    return scaled


def roi(shape: Shape, window: Window, divisor: Shape) -> Shape:
    """The window for one volume: never larger than the volume rounded up to the divisor."""
    sides = [
        min(patch, -(-extent // step) * step)
        for extent, patch, step in zip(shape, window.patch_size, divisor, strict=True)
    ]
    return (sides[0], sides[1], sides[2])


def passes(window: Window) -> int:
    """How often the network sees each window: once, or once for each mirrored copy."""
    return 1 << len(window.mirrored)


def windows(shape: Shape, window: Window, divisor: Shape) -> int:
    """How many windows the sliding window takes over a volume."""
    count = 1
    for extent, side in zip(shape, roi(shape, window, divisor), strict=True):
        stride = side if side >= extent else max(1, int(side * (1 - window.overlap)))
        count *= 1 if side >= extent else -(-(extent - side) // stride) + 1
    return count


@dataclass(frozen=True)
class Predictor:
    """A network that is run over whole volumes: training, analysis, export, service and Python.

    Attributes:
        forward: Windows (B, C, x, y, z) -> logits (B, C_out, x, y, z): a torch module in eval mode,
            or an exported network.
        window: Size and overlap of the windows, and how intensities are normalised.
        divisor: Each side of a window is a multiple of it.
        in_channels: Channels C that the network takes.
        classes: The label value of each output channel; None where the channel is the value.
        device: Where `forward` runs; results are put together in main memory, so that the size of
            a volume is not limited by the GPU's.
        precision: What is computed in: float32 (`none`) for everything that is reported.
    """

    forward: Forward
    window: Window
    divisor: Shape
    in_channels: int = 1
    classes: tuple[int, ...] | None = None
    device: str = "cpu"
    precision: Precision = REPORTED

    @classmethod
    def of(
        cls, network: Network, window: Window, forward: Forward | Path, *, device: str = "cpu",
        classes: tuple[int, ...] | None = None,
    ) -> Predictor:  # fmt: skip
        """Make one of a network's record and what runs it: its checkpoint, or an exported model."""
        if isinstance(forward, Path):
            forward = networks.load(network, forward).to(device)
        divisor = networks.divisor(network)
        return cls(forward, window, divisor, network.in_channels, classes, device)

    def logits(self, normalised: Array) -> Array:
        """(C, X, Y, Z) -> (C_out, X, Y, Z) float32; overlapping windows are blended (Gaussian)."""
        return self._blended(normalised, lambda part: part.astype(np.float32, copy=False))

    def _blended(self, image: Array, scale: Callable[[Array], Array]) -> Array:
        """The logits of an image whose windows are scaled one by one: no second copy is held."""
        import torch
        from monai.inferers.utils import sliding_window_inference

        x, y, z = image.shape[1:]
        size = roi((x, y, z), self.window, self.divisor)
        # A volume that is smaller than the window stands in its middle, among zeros.
        margins = [max(0, side - extent) for side, extent in zip(size, (x, y, z), strict=True)]
        before = [margin // 2 for margin in margins]
        whole = [extent + margin for extent, margin in zip((x, y, z), margins, strict=True)]

        def forward(_: Tensor, places: Sequence[Sequence[slice]]) -> Tensor:
            parts = np.stack([_part(image, place[2:], before, scale) for place in places])
            return self._averaged(torch.from_numpy(parts).to(self.device))

        with torch.inference_mode(), _autocast(self.device, self.precision):
            blended = sliding_window_inference(
                torch.zeros(()).expand(1, len(image), *whole),  # for its shape and type
                roi_size=size,
                sw_batch_size=at_once(self.window.patch_size, self.device),
                predictor=forward,
                overlap=self.window.overlap,
                mode="gaussian",
                sw_device=self.device,
                device="cpu",
                with_coord=True,
            )
        own = [slice(low, low + side) for low, side in zip(before, (x, y, z), strict=True)]
        result: Array = blended[0].numpy()[:, *own]
        return result

    def _averaged(self, part: Tensor) -> Tensor:
        """The mean over the mirrored copies of (B, C, x, y, z), each turned back."""
        axes = [axis + 2 for axis in self.window.mirrored]
        copies = [copy for n in range(len(axes) + 1) for copy in itertools.combinations(axes, n)]
        total = self.forward(part).float()
        for copy in copies[1:]:
            total = total + self.forward(part.flip(copy)).float().flip(copy)
        return total / len(copies)

    def probabilities(self, image: Array) -> Array:
        """Raw intensities (C, X, Y, Z) -> shares of the classes (C_out, X, Y, Z), 0 to 1.

        Raises:
            DataError: the network says NaN somewhere.
        """
        return probabilities(self._answer(image))

    def segment(self, image: Array) -> NDArray[np.uint8]:
        """Raw intensities (C, X, Y, Z) -> label values (X, Y, Z).

        Raises:
            ServingError: `image` has another number of channels than the network takes.
            DataError: the network says NaN somewhere, which would become background.
        """
        indices = mask(self._answer(image))
        return indices if self.classes is None else np.asarray(self.classes, np.uint8)[indices]

    def _answer(self, image: Array) -> Array:
        if len(image) != self.in_channels:
            raise ServingError(
                f"The network takes {self.in_channels} channels, the volume holds {len(image)}.",
                remedy="give a network that was trained on volumes of as many channels",
            )
        found = self._blended(image, scaling(image, self.window))
        if all(np.isfinite(slab).all() for slab in np.moveaxis(found, 1, 0)):
            return found
        raise DataError(
            "The network's answer is NaN or infinite somewhere.",
            remedy="look at the intensities of the volume; train with data.normalisation=zscore",
            code="non_finite",
        )


def _part(
    image: Array, place: Sequence[slice], before: Sequence[int], scale: Callable[[Array], Array]
) -> Array:
    """One window (C, x, y, z) of an image with `before` zeros in front of it."""
    shifted = [(s.start - low, s.stop - low) for s, low in zip(place, before, strict=True)]
    part = scale(image[:, *(slice(max(0, start), stop) for start, stop in shifted)])
    ends = zip(shifted, image.shape[1:], strict=True)
    zeros = [(max(0, -start), max(0, stop - side)) for (start, stop), side in ends]
    return np.pad(part, [(0, 0), *zeros]) if np.any(zeros) else part


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
    """Softmax over the channels of (C, X, Y, Z), in the place of the logits."""
    logits -= logits.max(axis=0, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=0, keepdims=True)
    return logits


def mask(logits: Array) -> NDArray[np.uint8]:
    """The most likely class of each voxel, (X, Y, Z)."""
    # Places are counted in 8 bytes, so those of the whole would be as large as two channels.
    return np.stack([slab.argmax(axis=0).astype(np.uint8) for slab in np.moveaxis(logits, 1, 0)])
