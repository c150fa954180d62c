"""Track live bytes per torch operation, including convolution workspaces."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from minivess.compute.memory.fake_tensors import ShapeOnlyTensor

FEW_CHANNELS = 2


class MemoryTracker(TorchDispatchMode):
    """Track every tensor created while entered, and those given at the start.

    `alive` has one number for each operation: the memory after it, or while it runs if that is
    more. Storages are followed until torch frees them, so what autograd saves counts too.
    """

    def __init__(self, held: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        self.alive: list[int] = []
        self._known: dict[int, weakref.ref[Any]] = {}
        for tensor in held:
            self._hold(tensor)

    def _hold(self, tensor: Tensor) -> None:
        inner = tensor.on_meta if isinstance(tensor, ShapeOnlyTensor) else tensor
        storage = inner.untyped_storage()
        place, size = storage._cdata, storage.nbytes()
        if place in self._known:
            return

        def freed(_: object) -> None:
            del self._known[place]
            self.now -= size

        self._known[place] = weakref.ref(storage, freed)
        self.now += size

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run the operation and record the live bytes."""
        found = func(*args, **(kwargs or {}))
        made = list(_tensors(found))
        for tensor in made:
            self._hold(tensor)
        self.alive.append(self.now + _workspace(func, args, made))
        return found


def _tensors(nested: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_iter(nested) if isinstance(leaf, Tensor))


def _workspace(func: Any, args: tuple[Any, ...], made: list[Tensor]) -> int:
    """Return the bytes that a convolution takes beside its inputs and outputs, as seen on a CPU.

    oneDNN copies both into blocked layouts. In float32 torch itself convolves one or two channels
    (`ConvParams::use_mkldnn`), over a matrix with a column for every voxel of the result.
    """
    if func is torch.ops.aten.convolution.default:
        (volume, weight), result, transposed = args[:2], made[0], args[6]
    elif func is torch.ops.aten.convolution_backward.default:
        (result, volume, weight), transposed = args[:3], args[7]
    else:
        return 0
    few = volume.shape[1] <= FEW_CHANNELS and volume.dtype == torch.float32 and not transposed
    columns = math.prod(weight.shape[1:]) * result[:, 0].numel() * 4 if few else 0
    most: int = max(volume.nbytes + result.nbytes, columns) + weight.nbytes
    return most
