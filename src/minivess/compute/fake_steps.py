"""Steps on fake tensors, which have shapes but no contents: their memory can be added up.

Losses look at contents, so a loss runs by itself on a small real volume.
"""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Literal

from minivess import losses, networks
from minivess.contracts import Loss, Network, Shape

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Precision = Literal["none", "bf16", "fp16"]
Optimizer = Literal["adamw", "adam", "sgd"]
LOSS_SIDE = 32
"""Voxels along each axis of the volume on which a loss is measured: room for a thick vessel."""

STEP, WINDOW = "step", "window"


def peak(
    network: Network,
    patch: Shape,
    precision: Precision,
    optimizer: Optimizer,
    *,
    checkpointing: bool = False,
    kind: Literal["step", "window"] = "step",
    loss_bytes: float = 0.0,
) -> int:
    """Bytes alive at the worst moment of one training step, or of one window without gradients.

    `loss_bytes` for each voxel are alive between forward and backward.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.distributed._tools.mem_tracker import MemTracker

    module = networks.initial(network, seed=0).train()
    if checkpointing:
        networks.recompute(module)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, _same_random_state():
        _replace_by_fakes(module, mode)
        updater = _optimizer(optimizer, module)
        volume, target = _fake_batch(network, patch)
        ballast = round(loss_bytes * math.prod(patch))
        # Tracking a second step of one tracker fails; the first one makes the optimizer's state.
        _step(module, updater, (volume, target), precision, ballast)
        tracker = MemTracker()
        tracker.track_external(module, updater, volume, target)
        with tracker:
            if kind == STEP:
                _step(module, updater, (volume, target), precision, ballast)
            else:
                _window(module, volume, precision)
    return _worst(tracker)


def loss_bytes(loss: Loss, out_channels: int) -> float:
    """Bytes per voxel that a loss takes beside its logits, forward and backward."""
    from torch.distributed._tools.mem_tracker import MemTracker

    with _same_random_state():
        logits, target = _thick_vessel(out_channels)
        module = losses.build(loss, out_channels)
        tracker = MemTracker()
        tracker.track_external(module, logits, target)
        tracemalloc.start()
        try:
            with tracker:
                module(logits, target)["loss"].backward()
            foreign = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    # tracemalloc sees what numpy takes, and Python's own objects, which are few.
    return max(0.0, _worst(tracker) + foreign - logits.nbytes - target.nbytes) / LOSS_SIDE**3


def _thick_vessel(out_channels: int) -> tuple[Tensor, Tensor]:
    """Logits and a ball of every class, so thick that skeletons take all their erosions."""
    import torch

    side = torch.linspace(-1, 1, LOSS_SIDE) ** 2
    ball = side[:, None, None] + side[None, :, None] + side[None, None, :] < 0.9
    target = (ball.long() * (out_channels - 1))[None, None]
    logits = torch.stack([(target[0, 0] == index) * 4.0 for index in range(out_channels)])[None]
    return logits.requires_grad_(True), target


def _worst(tracker: Any) -> int:
    snapshot = tracker.get_tracker_snapshot("peak")
    return max(
        int(sum(size for kind, size in parts.items() if str(kind) != "Total"))
        for parts in snapshot.values()
    )


@contextmanager
def _same_random_state() -> Iterator[None]:
    import torch

    with torch.random.fork_rng(devices=[]):
        yield


def _replace_by_fakes(module: nn.Module, mode: Any) -> None:
    import torch

    for part in module.modules():
        for name, weight in list(part._parameters.items()):
            if weight is not None:
                fake = mode.from_tensor(weight.detach())
                part._parameters[name] = torch.nn.Parameter(fake, requires_grad=True)
        for name, buffer in list(part._buffers.items()):
            if buffer is not None:
                part._buffers[name] = mode.from_tensor(buffer)


def _fake_batch(network: Network, patch: Shape) -> tuple[Tensor, Tensor]:
    import torch

    volume = torch.empty((1, network.in_channels, *patch))
    return volume, torch.empty((1, network.out_channels, *patch))


def _optimizer(name: Optimizer, module: nn.Module) -> torch.optim.Optimizer:
    import torch

    if name == "sgd":
        return torch.optim.SGD(module.parameters(), lr=1e-3, momentum=0.9)
    kind = torch.optim.AdamW if name == "adamw" else torch.optim.Adam
    return kind(module.parameters(), lr=1e-3)


def _autocast(precision: Precision) -> Any:
    import torch

    if precision == "none":
        return nullcontext()
    return torch.autocast("cpu", dtype=torch.float16 if precision == "fp16" else torch.bfloat16)


def _step(
    module: nn.Module,
    updater: torch.optim.Optimizer,
    batch: tuple[Tensor, Tensor],
    precision: Precision,
    ballast: int,
) -> None:
    """Forward, loss, backward, update, with a stand-in for the loss."""
    import torch

    volume, target = batch
    with _autocast(precision):
        logits = module(volume)
    heads = logits.unbind(1) if logits.ndim == target.ndim + 1 else (logits,)
    shares = [head.float().softmax(dim=1) for head in heads]
    loss = sum((share * target).mean() - share.log().mean() for share in shares)
    held = torch.empty(ballast, dtype=torch.uint8)
    del held
    loss.backward()
    updater.step()
    updater.zero_grad(set_to_none=True)


def _window(module: nn.Module, volume: Tensor, precision: Precision) -> None:
    import torch

    with torch.no_grad(), _autocast(precision):
        module.eval()(volume).float()
