"""Shape-only tensors: meta tensors that report device "cpu".

Torch's own `FakeTensorMode` is made for compilation and several times as slow to create. On the
meta device itself autocast does not work.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map

CPU, META = torch.device("cpu"), torch.device("meta")


class ShapeOnlyTensor(Tensor):
    """Wrapper of `on_meta`, a tensor on the meta device."""

    on_meta: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, on_meta: Tensor) -> ShapeOnlyTensor:
        """Wrap a meta tensor: same shape, strides and dtype."""
        made: ShapeOnlyTensor = Tensor._make_wrapper_subclass(
            cls, on_meta.size(), strides=on_meta.stride(),
            storage_offset=on_meta.storage_offset(), dtype=on_meta.dtype, device=CPU,
        )  # fmt: skip
        made.on_meta = on_meta
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run the operation on the meta tensors."""
        return _on_meta(func, args, kwargs or {})


class ShapeOnlyMode(TorchDispatchMode):
    """Create tensors without contents while entered; those made from given numbers stay real."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run the operation on meta tensors, unless every input is real."""
        given = [leaf for leaf in tree_iter((args, kwargs)) if isinstance(leaf, Tensor)]
        if any(tensor.is_meta or isinstance(tensor, ShapeOnlyTensor) for tensor in given):
            return _on_meta(func, args, kwargs or {})
        if given or not any(argument.name == "device" for argument in func._schema.arguments):
            return func(*args, **(kwargs or {}))
        return ShapeOnlyTensor(func(*args, **{**(kwargs or {}), "device": META}))


def _on_meta(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    outer: dict[int, ShapeOnlyTensor] = {}

    def entering(value: Any) -> Any:
        if isinstance(value, ShapeOnlyTensor):
            outer[id(value.on_meta)] = value
            return value.on_meta
        if isinstance(value, Tensor):
            return value.to(META)
        return META if isinstance(value, torch.device) else value

    def leaving(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        known = outer.get(id(value))
        return ShapeOnlyTensor(value) if known is None else known

    args, kwargs = tree_map(entering, (args, kwargs))
    return tree_map(leaving, func(*args, **kwargs))
