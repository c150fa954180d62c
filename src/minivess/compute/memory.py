"""How much memory a step takes, asked of the network itself, without running it.

Memory is affine in voxels x batch, so two fake steps size any patch. What was found is kept on
disk by content. A model file may give its own numbers instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from minivess import inference, networks
from minivess.compute import fake_steps
from minivess.compute.fake_steps import Optimizer, Precision
from minivess.compute.memo import remembered
from minivess.contracts import Loss, Network, Shape

GIB, MIB = 1024**3, 1024**2

PROCESS_GB = 0.72
"""Python, torch, MONAI on a CPU; context and kernels on a GPU."""

UNSEEN = 1.2
"""Convolution workspaces and fragments, which no tensor shows."""

SIDE = 48
"""Voxels along each axis of the small fake patch: activations outweigh what does not grow."""

BLENDING_MAPS = 3
"""Maps as large as a volume beside its logits: image, weights of the windows, their sum."""


class Line(NamedTuple):
    """GiB at no voxel, and bytes for each voxel of each patch."""

    base_gb: float
    per_voxel: float

    def gb(self, voxels: int) -> float:
        """GiB with so many voxels at once."""
        return self.base_gb + self.per_voxel * voxels / GIB


def predict(
    network: Network,
    *,
    patch: Shape,
    batch: int,
    precision: Precision,
    optimizer: Optimizer,
    checkpointing: bool,
    losses: Sequence[Loss] = (),
    cache: Path | None = None,
) -> float:
    """GiB that a training process takes at its peak, the cached volumes not counted.

    The hungriest of `losses` counts. `cache` is the folder where findings are kept.
    """
    limits = network.limits
    given = limits.vram_base_mb, limits.vram_per_voxel_train_bytes
    found = Line(0, 0)
    if None in given:
        found = training_line(
            network, precision, optimizer, checkpointing=checkpointing, losses=losses, cache=cache
        )
    line = Line(
        given[0] * MIB / GIB if given[0] is not None else found.base_gb,
        given[1] if given[1] is not None else found.per_voxel,
    )
    return line.gb(math.prod(patch) * batch)


def training_line(
    network: Network,
    precision: Precision,
    optimizer: Optimizer,
    *,
    checkpointing: bool,
    losses: Sequence[Loss] = (),
    cache: Path | None = None,
) -> Line:
    """Memory of a training step, with its margins."""

    def peak(patch: Shape) -> int:
        return fake_steps.peak(
            network, patch, precision, optimizer,
            checkpointing=checkpointing, loss_bytes=for_losses,
        )  # fmt: skip

    for_losses = max((loss_bytes(loss, network, cache=cache) for loss in losses), default=0.0)
    settings = [precision, optimizer, checkpointing, for_losses]
    return _line(network, ["training", *settings], peak, cache)


def predict_window(
    network: Network,
    *,
    patch: Shape,
    volume: Shape,
    device: str,
    precision: Precision,
    optimizer: Optimizer,
    cache: Path | None = None,
) -> float:
    """GiB that a training process takes while it judges a volume by its sliding window."""

    def peak(size: Shape) -> int:
        return fake_steps.peak(network, size, precision, optimizer, kind="window")

    line = _line(network, ["window", precision, optimizer], peak, cache)
    maps = (2 * network.out_channels + BLENDING_MAPS) * 4 * math.prod(volume) / GIB
    at_once = inference.at_once(patch, device) * math.prod(patch)
    return line.gb(at_once) + (maps if device == "cpu" else 0.0)


def loss_bytes(loss: Loss, network: Network, *, cache: Path | None = None) -> float:
    """Bytes per voxel that a loss takes beside its logits."""
    ingredients = {"loss": loss.model_dump(mode="json"), "out_channels": network.out_channels}
    return float(
        remembered(
            cache,
            ingredients,
            lambda: fake_steps.loss_bytes(loss, network.out_channels),
            own=[term.loss for term in loss.terms],
        )
    )


def _line(
    network: Network, settings: list[object], peak: Callable[[Shape], int], cache: Path | None
) -> Line:
    """The straight line through two fake steps."""

    def found() -> tuple[float, float]:
        small = _small(network, cache)
        large = (2 * small[0], small[1], small[2])
        low, high = peak(small), peak(large)
        per_voxel = (high - low) / math.prod(small)
        return low - per_voxel * math.prod(small), per_voxel

    record = {"network": network.model_dump(mode="json"), "settings": settings}
    fixed, per_voxel = remembered(cache, record, found, own=[network.builder])
    return Line(PROCESS_GB + UNSEEN * fixed / GIB, UNSEEN * per_voxel)


def _small(network: Network, cache: Path | None) -> Shape:
    sides = [step * max(2, SIDE // step) for step in divisor(network, cache=cache)]
    return (sides[0], sides[1], sides[2])


def divisor(network: Network, *, cache: Path | None = None) -> Shape:
    """What each axis of a patch must be divisible by, kept on disk like the rest."""
    record = {"divisor of": network.model_dump(mode="json")}
    found = remembered(cache, record, lambda: networks.divisor(network), own=[network.builder])
    return (found[0], found[1], found[2])


def accepts(network: Network, patch: Shape, batch: int, *, cache: Path | None = None) -> bool:
    """Whether a training step takes this patch, kept on disk like the rest."""
    record = {"accepts": network.model_dump(mode="json"), "patch": patch, "batch": batch}
    return bool(
        remembered(
            cache, record, lambda: networks.accepts(network, patch, batch), own=[network.builder]
        )
    )
