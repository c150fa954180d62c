"""How much memory a training step takes, asked of the network itself, without running it.

The step runs on fake tensors, which have shapes but no contents; torch's memory tracker adds up
what would be alive. Memory is affine in voxels x batch, so two such steps size any patch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from minivess import networks
from minivess.contracts import Network, Shape

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

GIB = 1024**3
Precision = Literal["none", "bf16", "fp16"]
Optimizer = Literal["adamw", "adam", "sgd"]

PROCESS_GB = 0.65
"""Python, torch, MONAI on a CPU; context and kernels on a GPU."""

UNSEEN = 1.15
"""Convolution workspaces and fragments, which no tensor shows."""


def predict(
    network: Network,
    *,
    patch: Shape,
    batch: int,
    precision: Precision,
    optimizer: Optimizer,
    checkpointing: bool,
) -> float:
    """GiB that a training process takes at its peak, the cached volumes not counted."""
    fixed, per_voxel = _line(network.model_dump_json(), precision, optimizer, checkpointing)
    return PROCESS_GB + UNSEEN * (fixed + per_voxel * math.prod(patch) * batch) / GIB


@lru_cache(maxsize=64)
def _line(
    record: str, precision: Precision, optimizer: Optimizer, checkpointing: bool
) -> tuple[float, float]:
    """(bytes at no voxel, bytes per voxel), from two fake steps."""
    network = Network.model_validate_json(record)
    small = _probe(network)
    large = (2 * small[0], small[1], small[2])
    low, high = (
        _fake_step(network, patch, precision, optimizer, checkpointing) for patch in (small, large)
    )
    per_voxel = (high - low) / math.prod(small)
    return low - per_voxel * math.prod(small), per_voxel


def _probe(network: Network) -> Shape:
    """A patch large enough that activations outweigh what does not grow."""
    sides = [step * max(2, 48 // step) for step in networks.divisor(network)]
    return (sides[0], sides[1], sides[2])


def _fake_step(
    network: Network,
    patch: Shape,
    precision: Precision,
    optimizer: Optimizer,
    checkpointing: bool,
) -> int:
    """Peak bytes of one step on fake tensors. Tracking a second step of one tracker fails."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.distributed._tools.mem_tracker import MemTracker

    module = networks.initial(network, seed=0).train()
    if checkpointing:
        networks.recompute(module)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, _same_random_state():
        _replace_by_fakes(module, mode)
        updater = _optimizer(optimizer, module)
        volume, target = _fake_batch(network, patch)
        _step(module, updater, volume, target, precision)
        tracker = MemTracker()
        tracker.track_external(module, updater, volume, target)
        with tracker:
            _step(module, updater, volume, target, precision)
    return int(max(_totals(tracker.get_tracker_snapshot("peak"))))


def _totals(snapshot: dict[Any, dict[Any, int]]) -> Iterator[int]:
    for parts in snapshot.values():
        yield sum(size for kind, size in parts.items() if str(kind) != "Total")


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


def _step(
    module: nn.Module,
    updater: torch.optim.Optimizer,
    volume: Tensor,
    target: Tensor,
    precision: Precision,
) -> None:
    """Forward, loss, backward, update. One-hot targets depend on data, so the loss stands in."""
    import torch

    kind = torch.float16 if precision == "fp16" else torch.bfloat16
    with torch.autocast("cpu", dtype=kind) if precision != "none" else nullcontext():
        logits = module(volume)
    heads = logits.unbind(1) if logits.ndim == target.ndim + 1 else (logits,)
    shares = [head.float().softmax(dim=1) for head in heads]
    loss = sum((share * target).mean() - share.log().mean() for share in shares)
    loss.backward()
    updater.step()
    updater.zero_grad(set_to_none=True)
