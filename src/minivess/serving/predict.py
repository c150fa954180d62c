"""Masks for files and folders: the same path for the command line and for the service."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from minivess import inference
from minivess.contracts import Shape, Window
from minivess.data import volume
from minivess.data.filenames import NIFTI, is_volume, stem
from minivess.errors import DataError, ServingError, UsageError

if TYPE_CHECKING:
    import torch

Forward = Callable[["torch.Tensor"], "torch.Tensor"]
ENDING = "_mask.nii.gz"

logger = logging.getLogger(__name__)


def segment(
    image: volume.Volume,
    *,
    forward: Forward,
    window: Window,
    divisor: Shape,
    in_channels: int = 1,
    classes: Sequence[int] | None = None,
) -> npt.NDArray[np.uint8]:
    """Label values (X, Y, Z) of one volume at its native resolution.

    `classes` holds the label value of each output channel; without it the channel is the value.

    Raises:
        ServingError: the network wants several channels, and a volume holds one.
    """
    if in_channels != 1:
        raise ServingError(
            f"The network takes {in_channels} channels, but a volume holds one.",
            remedy="deploy a network trained on single-channel volumes",
        )
    raw = np.asarray(image.array, dtype=np.float32)[np.newaxis]
    normalised = inference.normalise(raw, window.normalisation)
    indices = inference.mask(inference.logits(forward, normalised, window, divisor=divisor))
    return indices if classes is None else np.asarray(classes, dtype=np.uint8)[indices]


def predict(
    inputs: Path,
    out: Path,
    *,
    forward: Forward,
    window: Window,
    divisor: Shape,
    in_channels: int,
    classes: Sequence[int] | None = None,
) -> list[Path]:
    """Segment a file, or every volume of a folder; returns the masks written.

    A folder gives `<case>_mask.nii.gz` for each volume. A bad file does not keep the others
    from being segmented.

    Raises:
        DataError: nothing to read, or some files could not be segmented (each is named).
        UsageError: the masks would land among the inputs.
    """
    written, failed = [], []
    for source, target in plan(inputs, out):
        try:
            image = volume.read(source)
            mask = segment(
                image,
                forward=forward,
                window=window,
                divisor=divisor,
                in_channels=in_channels,
                classes=classes,
            )
            written.append(volume.write_mask(target, mask, image))
        except DataError as error:
            logger.warning("%s", error.problem)
            failed.append(error)
    if failed:
        raise DataError(
            f"{len(failed)} of {len(failed) + len(written)} volumes could not be segmented: "
            + " ".join(error.problem for error in failed),
            remedy=failed[0].remedy,
        )
    return written


def plan(inputs: Path, out: Path) -> list[tuple[Path, Path]]:
    """Which file is read and where its mask goes."""
    if inputs.is_file():
        named = out.name.endswith(NIFTI)
        return [(inputs, out if named else out / _mask_name(inputs))]
    sources = sorted(
        path for path in (inputs.iterdir() if inputs.is_dir() else ()) if is_volume(path)
    )
    if not sources:
        raise DataError(
            f"There is no volume to segment at {inputs}.",
            remedy="name a volume (.nii.gz, .tif, .nrrd, .mha), or a folder that holds some",
        )
    if out.resolve() == inputs.resolve():
        raise UsageError(
            f"The masks would land among the volumes in {inputs}.",
            remedy=f"minivess predict {inputs} {inputs.with_name(inputs.name + '_masks')}",
        )
    return [(source, out / _mask_name(source)) for source in sources]


def _mask_name(source: Path) -> str:
    return stem(source) + ENDING
