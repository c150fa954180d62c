"""Tensors with a shape and no contents, which torch takes for tensors of the CPU.

Torch has such tensors (`FakeTensorMode`), made to be compiled; these only have to be counted, and
are made several times as fast. On the meta device alone autocast would not work.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map

CPU, META = torch.device("cpu"), torch.device("meta")


class HollowTensor(Tensor):
    """Stands for `on_meta`, a tensor on the meta device."""

    on_meta: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, on_meta: Tensor) -> HollowTensor:
        """Of the same shape, strides and kind."""
        made: HollowTensor = Tensor._make_wrapper_subclass(
            cls, on_meta.size(), strides=on_meta.stride(),
            storage_offset=on_meta.storage_offset(), dtype=on_meta.dtype, device=CPU,
        )  # fmt: skip
        made.on_meta = on_meta
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Work out the shapes of what comes out."""
        return _hollow(func, args, kwargs or {})


class Hollow(TorchDispatchMode):
    """While it is entered, new tensors are hollow; those made of given numbers are not."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run the operation for its shapes, unless all that goes in is real."""
        given = [leaf for leaf in tree_iter((args, kwargs)) if isinstance(leaf, Tensor)]
        if any(tensor.is_meta or isinstance(tensor, HollowTensor) for tensor in given):
            return _hollow(func, args, kwargs or {})
        if given or not any(argument.name == "device" for argument in func._schema.arguments):
            return func(*args, **(kwargs or {}))
        return HollowTensor(func(*args, **{**(kwargs or {}), "device": META}))


def _hollow(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    outer: dict[int, HollowTensor] = {}

    def entering(value: Any) -> Any:
        if isinstance(value, HollowTensor):
            outer[id(value.on_meta)] = value
            return value.on_meta
        if isinstance(value, Tensor):
            return value.to(META)
        return META if isinstance(value, torch.device) else value

    def leaving(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        known = outer.get(id(value))
        return HollowTensor(value) if known is None else known

    args, kwargs = tree_map(entering, (args, kwargs))
    return tree_map(leaving, func(*args, **kwargs))
