"""Training steps and losses run on shape-only tensors, whose memory is added up.

Losses look at contents, so a loss runs by itself on a small real volume.
"""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from minivess import losses, networks
from minivess.compute.memory.fake_tensors import ShapeOnlyMode
from minivess.compute.memory.settings import Line, StepSettings
from minivess.compute.memory.tracker import MemoryTracker
from minivess.contracts import Loss, Network, Shape

LOSS_SIDE = 32
"""Voxels along each axis of the volume on which a loss is measured: room for a thick vessel."""

MOST_VOXELS = 2**28


# --- networks -----------------------------------------------------------------------------


def _envelope(watched: Callable[[Shape], list[int]], patch: Shape) -> list[Line]:
    """The lines, through equal moments of a patch and one twice as long, that lead somewhere.

    Shifted windows take other operations in other patches; then the two peaks are compared.
    """
    x, y, z = patch
    one, two = watched(patch), watched((2 * x, y, z))
    if len(one) != len(two):
        one, two = [max(one)], [max(two)]
    voxels = math.prod(patch)
    lines = {(2 * low - high, (high - low) / voxels) for low, high in zip(one, two, strict=True)}
    sizes = (2**power for power in range(MOST_VOXELS.bit_length()))
    return sorted({max(lines, key=lambda line: line[0] + line[1] * size) for size in sizes})


class DryRun:
    """A network in training, on shape-only tensors."""

    def __init__(self, network: Network, settings: StepSettings) -> None:
        self.network = network
        self.settings = settings
        self.mode = ShapeOnlyMode()  # type: ignore[no-untyped-call]
        self.module = deepcopy(networks.weightless(network))
        if settings.checkpointing:
            networks.recompute(self.module)
        with self.mode:
            make_shape_only(self.module)
            self.updater = _optimizer(settings, self.module)
            for weight in self.module.parameters():
                weight.grad = weight.detach().clone()
            self.updater.step()
            self.updater.zero_grad(set_to_none=True)
            weights = list(self.module.parameters()) if settings.average else []
            self.average = [weight.detach().clone() for weight in weights]

    def step_lines(self, patch: Shape, loss_bytes: float) -> list[Line]:
        """Memory of one training step; the highest line at a number of voxels counts.

        `loss_bytes` for each voxel of each patch are alive between forward and backward.
        """
        if self.settings.accumulating:
            self._step(patch, loss_bytes, update=False)
        lines = _envelope(lambda size: self._step(size, loss_bytes), patch)
        self.updater.zero_grad(set_to_none=True)
        return lines

    def window_lines(self, patch: Shape) -> list[Line]:
        """Memory of one forward without gradients."""
        return _envelope(self._window, patch)

    def _step(self, patch: Shape, loss_bytes: float, *, update: bool = True) -> list[int]:
        """Bytes alive after each operation of forward, loss, backward and update."""

        def work(volume: Tensor) -> None:
            with _autocast(self.settings):
                logits = self.module.train()(volume)
            heads = logits.shape[1] if logits.ndim > volume.ndim else 1
            held = torch.empty(round(loss_bytes * heads * math.prod(patch)), dtype=torch.uint8)
            loss = logits.float().sum()
            del held
            loss.backward()
            if update:
                self.updater.step()
                self.updater.zero_grad(set_to_none=not self.settings.accumulating)

        return self._watched(work, patch)

    def _window(self, patch: Shape) -> list[int]:
        """Bytes alive after each operation of a forward without gradients."""

        def work(volume: Tensor) -> None:
            # What is reported is judged in float32, whatever training computes in.
            with torch.no_grad():
                self.module.eval()(volume).float()

        return self._watched(work, patch)

    def _watched(self, work: Callable[[Tensor], None], patch: Shape) -> list[int]:
        with self.mode, torch.random.fork_rng(devices=[]):
            volume = torch.empty((1, self.network.in_channels, *patch))
            target = torch.empty((1, 1, *patch), dtype=torch.int64)
            tracker = MemoryTracker([volume, target, *self._state()])
            with tracker:
                work(volume)
        return tracker.alive

    def _state(self) -> Iterator[Tensor]:
        yield from self.average
        yield from self.module.buffers()
        for weight in self.module.parameters():
            yield weight
            if weight.grad is not None:
                yield weight.grad
        for kept in self.updater.state.values():
            yield from (value for value in kept.values() if isinstance(value, torch.Tensor))


def make_shape_only(module: nn.Module) -> None:
    """Give a module on the meta device shape-only weights, inside `ShapeOnlyMode`."""
    for part in module.modules():
        for name, weight in list(part._parameters.items()):
            if weight is not None:
                fake = torch.empty_like(weight, device="cpu", requires_grad=False)
                part._parameters[name] = torch.nn.Parameter(fake, requires_grad=True)
        for name, buffer in list(part._buffers.items()):
            if buffer is not None:
                part._buffers[name] = torch.empty_like(buffer, device="cpu")


def _optimizer(settings: StepSettings, module: nn.Module) -> torch.optim.Optimizer:
    """On a GPU torch updates all weights at once, over temporaries as large as they are."""
    weights, at_once = list(module.parameters()), settings.on_gpu
    if settings.optimizer == "sgd":
        return torch.optim.SGD(weights, lr=1e-3, momentum=0.9, foreach=at_once)
    # Muon keeps one momentum; what it computes with takes less than AdamW's second one.
    kind = torch.optim.Adam if settings.optimizer == "adam" else torch.optim.AdamW
    return kind(weights, lr=1e-3, foreach=at_once)


class _NormsInFloat32(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in {functional.group_norm, functional.layer_norm}:
            args, kwargs = tree_map(_widened, (args, kwargs))
        return func(*args, **(kwargs or {}))


def _widened(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) else value


@contextmanager
def _autocast(settings: StepSettings) -> Iterator[None]:
    """Autocast of the CPU, with those norms in float32 that CUDA's autocast keeps there."""
    if settings.precision == "none":
        yield
        return
    kind = torch.float16 if settings.precision == "fp16" else torch.bfloat16
    with torch.autocast("cpu", dtype=kind), _NormsInFloat32() if settings.on_gpu else nullcontext():
        yield


# --- losses -------------------------------------------------------------------------------


def loss_bytes(loss: Loss, out_channels: int, *, gradients: bool, ignores: bool = False) -> float:
    """Bytes per voxel that a loss takes beside its logits: in a step, or only to be known."""

    def work() -> None:
        value = module(logits, target)["loss"]
        if gradients:
            value.backward()

    with torch.random.fork_rng(devices=[]), torch.set_grad_enabled(gradients):
        logits, target = _thick_vessel(out_channels)
        module = losses.build(loss, out_channels, ignores=ignores)
        tracker = MemoryTracker([])
        with tracker:
            work()
        logits.grad = None
        # What numpy takes, once the first run has imported what it needs.
        tracemalloc.start()
        try:
            work()
            foreign = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    return (max(tracker.alive) + foreign) / LOSS_SIDE**3


def _thick_vessel(out_channels: int) -> tuple[Tensor, Tensor]:
    """Logits and a ball of every class, so thick that skeletons take all their erosions."""
    side = torch.linspace(-1, 1, LOSS_SIDE) ** 2
    ball = side[:, None, None] + side[None, :, None] + side[None, None, :] < 0.9
    target = (ball.long() * (out_channels - 1))[None, None]
    logits = torch.stack([(target[0, 0] == index) * 4.0 for index in range(out_channels)])[None]
    return logits.requires_grad_(torch.is_grad_enabled()), target
