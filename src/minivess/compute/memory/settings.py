"""Settings of a training that show in its memory; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from minivess.inference import Precision

Line = tuple[float, float]
"""Bytes at no voxel, and bytes for each voxel of each patch."""


@dataclass(frozen=True)
class StepSettings:
    """What a training process does that shows in its memory."""

    precision: Precision
    optimizer: Literal["adamw", "adam", "sgd", "muon"]
    checkpointing: bool = False
    average: bool = False
    accumulating: bool = False
    on_gpu: bool = False
