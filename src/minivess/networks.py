"""Networks: resolve a model file against the data, build it, and ask it what shapes it takes.

Resolving imports no torch, so that deciding what to reuse stays quick.
"""

from __future__ import annotations

import itertools
import logging
import math
import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minivess.config import ModelConfig, imported
from minivess.contracts import Limits, Network, Shape
from minivess.errors import PlanError, TrainingError

if TYPE_CHECKING:
    from torch import Tensor, nn

log = logging.getLogger(__name__)

SAFE_SUFFIX = ".safetensors"
SMALLEST_FEATURE_MAP = 4
"""An axis is halved only while this many voxels remain: fewer carry no shape."""

LARGEST_DIVISOR = 64
POWERS = (1, 2, 4, 8, 16, 32, 64)
PRIMES = tuple(n for n in range(2, LARGEST_DIVISOR) if all(n % part for part in range(2, n)))


# --- resolving ----------------------------------------------------------------------------


def resolve(
    model: ModelConfig, *, in_channels: int, out_channels: int, min_shape: Shape
) -> Network:
    """Fix strides and kernels for a dataset whose smallest volume is `min_shape`.

    Raises:
        PlanError: strides or kernels that do not fit the levels.
    """
    strides, kernels = _levels(model, min_shape)
    return Network(
        name=model.name,
        family=model.family,
        builder=model.builder,
        in_channels=in_channels,
        out_channels=out_channels,
        filters=model.filters,
        kernel_size=kernels,
        strides=strides,
        norm=model.norm,
        deep_supervision=model.deep_supervision,
        dropout=model.dropout,
        arguments=model.arguments,
        limits=_limits(model),
    )


def _limits(model: ModelConfig) -> Limits:
    asked = model.model_dump(include=set(Limits.model_fields))
    factor = asked["divisibility_factor"]
    if isinstance(factor, int):
        asked["divisibility_factor"] = (factor, factor, factor)
    return Limits(**asked)


def _levels(model: ModelConfig, min_shape: Shape) -> tuple[tuple[Shape, ...], tuple[Shape, ...]]:
    """(strides, kernels) of each level, or nothing for a network that has its own."""
    if model.strides == "own":
        return (), ()
    levels = len(model.filters)
    strides = automatic_strides(levels, min_shape) if model.strides == "auto" else model.strides
    kernels = _kernels(model.kernel_size, strides, min_shape)
    for name, given in (("strides", strides), ("kernel_size", kernels)):
        if len(given) != levels:
            raise PlanError(
                f"Model {model.name} has {levels} levels (filters) but {len(given)} {name}.",
                remedy=f"leave out {name}, or give one for each of the {levels} levels",
            )
    return strides, kernels


def automatic_strides(levels: int, min_shape: Shape) -> tuple[Shape, ...]:
    """Stride of each level: an axis is halved while the smallest volume keeps enough voxels."""
    extents = list(min_shape)
    strides: list[Shape] = [(1, 1, 1)]
    for _ in range(1, levels):
        stride = tuple(2 if extent // 2 >= SMALLEST_FEATURE_MAP else 1 for extent in extents)
        extents = [extent // step for extent, step in zip(extents, stride, strict=True)]
        strides.append((stride[0], stride[1], stride[2]))
    return tuple(strides)


def _kernels(
    given: int | tuple[Shape, ...], strides: Sequence[Shape], min_shape: Shape
) -> tuple[Shape, ...]:
    """Kernel of each level; an axis with one or two voxels left has no neighbours to look at."""
    if not isinstance(given, int):
        return given
    kernels: list[Shape] = []
    extents = list(min_shape)
    for stride in strides:
        extents = [extent // step for extent, step in zip(extents, stride, strict=True)]
        kernel = [given if extent >= 3 else 1 for extent in extents]
        kernels.append((kernel[0], kernel[1], kernel[2]))
    return tuple(kernels)


# --- building -----------------------------------------------------------------------------


def build(network: Network) -> nn.Module:
    """Build the network with the weights that the current random state gives.

    Raises:
        UsageError: the builder cannot be imported.
        PlanError: the builder refuses the record.
    """
    builder = imported(network.builder)
    try:
        module: nn.Module = builder(network)
    except (TypeError, ValueError, AssertionError) as error:
        raise PlanError(
            f"The network {network.name} ({network.builder}) cannot be built: {error}",
            remedy="change its file in configs/models, or override it, "
            "for example model.filters=[8,16,32]",
        ) from error
    return module


def initial(network: Network, seed: int) -> nn.Module:
    """The untrained network of a seed; the caller's random state is left as it was."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(network)


def load(network: Network, checkpoint: Path) -> nn.Module:
    """Build the network with the weights of a checkpoint, ready for inference.

    Args:
        network: the record that it is built from.
        checkpoint: `.pth` of a training, or `.safetensors` of a model that left its machine.

    Raises:
        TrainingError: the file is absent, torn, or holds another network.
    """
    from safetensors import SafetensorError

    module = initial(network, seed=0)
    broken = (OSError, EOFError, KeyError, RuntimeError, ValueError, pickle.UnpicklingError)
    try:
        module.load_state_dict(weights_of(checkpoint))
    except (*broken, SafetensorError) as error:
        raise TrainingError(
            f"The checkpoint {checkpoint} does not hold weights of {network.name}: {error}",
            remedy="train again with training.retrain=always",
        ) from error
    return module.eval()


def weights_of(checkpoint: Path) -> dict[str, Tensor]:
    """The weights of a `.pth` or `.safetensors` file by their names."""
    import torch
    from safetensors.torch import load_file

    if checkpoint.suffix == SAFE_SUFFIX:
        found: dict[str, Tensor] = load_file(checkpoint)
    else:
        found = torch.load(checkpoint, map_location="cpu", weights_only=True)["weights"]
    return found


def require_shapes(network: Network, checkpoint: Path, what: str) -> None:
    """Require that a checkpoint holds the network's weights; `what` is the setting that names it.

    Raises:
        PlanError: a weight is absent, unknown, or of another shape.
    """
    own, theirs = (
        {name: tuple(weight.shape) for name, weight in weights.items()}
        for weights in (weightless(network).state_dict(), weights_of(checkpoint))
    )
    other = next((name for name in own | theirs if own.get(name) != theirs.get(name)), None)
    if other is not None:
        raise PlanError(
            f"{what} does not fit {network.name}: {other} has the shape "
            f"{theirs.get(other, 'of nothing')} there and {own.get(other, 'of nothing')} here.",
            remedy="give training.models, model and classes of that training, or leave out "
            "training.init",
        )


def parameters(module: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(weight.numel() for weight in module.parameters() if weight.requires_grad)


def dynunet(network: Network) -> nn.Module:
    """MONAI's DynUNet; in train() with deep supervision it returns (B, heads, C, X, Y, Z)."""
    from monai.networks.nets.dynunet import DynUNet

    levels = len(network.filters)
    if levels < 3:
        message = f"DynUNet needs at least 3 levels, and filters {network.filters} make {levels}"
        raise ValueError(message)
    if network.strides[0] != (1, 1, 1):
        message = (
            f"the first stride must be (1, 1, 1), not {network.strides[0]}: it shrinks the output"
        )
        raise ValueError(message)
    return DynUNet(
        spatial_dims=3,
        in_channels=network.in_channels,
        out_channels=network.out_channels,
        kernel_size=network.kernel_size,
        strides=network.strides,
        upsample_kernel_size=network.strides[1:],
        filters=network.filters,
        dropout=network.dropout or None,
        norm_name=network.monai_norm,
        deep_supervision=network.deep_supervision,
        **{"deep_supr_num": min(2, levels - 2), **network.arguments},
    )


# --- asking the built network -------------------------------------------------------------


def divisor(network: Network) -> Shape:
    """What each axis of a patch must be divisible by, found by running the network.

    Raises:
        PlanError: no divisor up to 64 works.
    """
    return _divisor(network.model_dump_json())


@lru_cache(maxsize=64)
def _divisor(record: str) -> Shape:
    network = Network.model_validate_json(record)
    module = weightless(network).eval()
    given = network.limits.divisibility_factor
    if given is not None:
        return _proven(module, network, given)
    found = [_axis_divisor(module, network, axis) for axis in range(3)]
    return (found[0], found[1], found[2])


def _proven(module: nn.Module, network: Network, given: Shape) -> Shape:
    """A divisor that the model file gives, once the network has taken an odd multiple of it."""
    odd = (5 * given[0], 5 * given[1], 5 * given[2])
    if not _passes(module, network, odd):
        raise PlanError(
            f"The file of {network.name} gives divisibility_factor={list(given)}, but the "
            f"network refuses {odd[0]}x{odd[1]}x{odd[2]} voxels.",
            remedy="leave out divisibility_factor, so that it is found from the network",
        )
    return given


def _axis_divisor(module: nn.Module, network: Network, axis: int) -> int:
    """The smallest number whose odd multiples pass; even ones could hide a factor of two."""

    def works(candidate: int) -> bool:
        return all(_passes(module, network, _with(axis, odd * candidate)) for odd in (3, 5))

    likely = math.prod(stride[axis] for stride in network.strides)
    candidates = (likely, *POWERS, *range(3, LARGEST_DIVISOR))
    found: int | None = next(filter(works, candidates), None)
    if found is None:
        raise PlanError(
            f"The network {network.name} takes no volume whose axis {'xyz'[axis]} is a multiple "
            f"of a number up to {LARGEST_DIVISOR}.",
            remedy=f"give {network.name} other strides in its file in configs/models",
        )
    # What works is a multiple of the smallest number that does: prime parts are left out.
    for prime in PRIMES:
        while found % prime == 0 and works(found // prime):
            found //= prime
    return found


def _with(axis: int, size: int) -> Shape:
    shape = [3 * LARGEST_DIVISOR] * 3
    shape[axis] = size
    return (shape[0], shape[1], shape[2])


def accepts(network: Network, patch: Shape, batch: int = 1) -> bool:
    """Whether a training step takes this patch: its feature maps must not shrink to one voxel."""
    return _passes(weightless(network).train(), network, patch, batch)


def weightless(network: Network) -> nn.Module:
    """The network on the meta device: it computes shapes, at no cost in memory or time.

    It is built once and handed to all who ask: who would change its weights takes a copy.
    """
    return _weightless(network.model_dump_json())


@lru_cache(maxsize=8)
def _weightless(record: str) -> nn.Module:
    with _unfilled():
        return initial(Network.model_validate_json(record), seed=0).to("meta")


@contextmanager
def _unfilled() -> Iterator[None]:
    """Leave out drawing random weights; memory that is never written to takes none."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    aten = torch.ops.aten
    draws = (aten.uniform_.default, aten.normal_.default)

    class Unfilled(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            return args[0] if func in draws else func(*args, **(kwargs or {}))

    with Unfilled():  # type: ignore[no-untyped-call]
        yield


def _passes(module: nn.Module, network: Network, shape: Shape, batch: int = 1) -> bool:
    """Whether a forward keeps the spatial shape. Networks refuse in several error classes."""
    import torch

    volume = torch.empty((batch, network.in_channels, *shape), device="meta")
    with suppress(RuntimeError, ValueError, IndexError, AssertionError), torch.no_grad():
        return tuple(module(volume).shape[-3:]) == shape
    return False


# --- recomputing activations --------------------------------------------------------------


def recompute(module: nn.Module) -> nn.Module:
    """Let the blocks of any network recompute their activations: less memory, more time.

    A block is the smallest submodule that holds two or more layers with parameters, so the
    names of the weights stay as they are. Batch norm statistics are updated twice for each step.
    """
    for block in list(_blocks(module)):
        block.forward = _recomputed(block.forward)
    return module


def _recomputed(forward: Any) -> Any:
    from torch.utils.checkpoint import checkpoint

    def again(*arguments: Tensor) -> Any:
        return checkpoint(forward, *arguments, use_reentrant=False)

    return again


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    inner = list(itertools.chain.from_iterable(_blocks(child) for child in module.children()))
    if inner:
        yield from inner
    elif sum(1 for part in module.modules() if part._parameters) >= 2:
        yield module
