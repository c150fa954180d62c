"""Optional resampling: the method `spacing`, or a callable of the user."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from minivess.config import ResamplingConfig
from minivess.contracts import Shape, Spacing
from minivess.errors import DataError

Array = npt.NDArray[Any]
Resampler = Callable[[Array, Array | None, Spacing, Spacing], tuple[Array, Array | None]]


def resample(
    image: Array, label: Array | None, spacing: Spacing, config: ResamplingConfig
) -> tuple[Array, Array | None]:
    """Bring image and label (X, Y, Z) to `config.target_spacing` by `config.method`.

    Raises:
        DataError: the method cannot be imported.
    """
    method = _method(config.method or "spacing")
    new_image, new_label = method(image, label, spacing, config.target_spacing or spacing)
    return (
        np.asarray(new_image, dtype=np.float32),
        None if new_label is None else np.asarray(new_label, dtype=np.uint8),
    )


def shape_after(shape: Shape, spacing: Spacing, config: ResamplingConfig) -> Shape:
    """Return the shape in which a volume is loaded; a user's method reaches its target."""
    if not config.enabled or config.target_spacing is None:
        return shape
    sizes = zip(shape, spacing, config.target_spacing, strict=True)
    return cast(Shape, tuple(max(1, round(size * old / new)) for size, old, new in sizes))


def _method(method: str) -> Resampler:
    if method == "spacing":
        return by_spacing
    module, _, name = method.partition(":")
    try:
        return cast(Resampler, getattr(importlib.import_module(module), name))
    except (ImportError, AttributeError, ValueError) as error:
        raise DataError(
            f"data.resampling.method={method} cannot be imported ({error}).",
            remedy="data.resampling.method=spacing, or module:callable of an importable module",
        ) from error


def by_spacing(
    image: Array, label: Array | None, spacing: Spacing, target: Spacing
) -> tuple[Array, Array | None]:
    """Resample the image linearly and the label by nearest neighbour; arrays are (X, Y, Z)."""
    config = ResamplingConfig(enabled=True, target_spacing=target)
    shape = shape_after(cast(Shape, image.shape), spacing, config)
    if shape == image.shape:
        return image, label
    return to_shape(image, shape, order=1), None if label is None else to_shape(label, shape)


def to_shape(array: Array, shape: Shape, *, order: int = 0) -> Array:
    """Resample (X, Y, Z) to a grid of `shape` over the same box, by nearest neighbour."""
    from scipy import ndimage

    factors = [new / old for new, old in zip(shape, array.shape, strict=True)]
    return cast(Array, ndimage.zoom(array, factors, order=order, mode="nearest", grid_mode=True))
