"""Precision, cache, workers, threads and steps: each value with its reason, from what is free."""

from __future__ import annotations

import logging
import math
from typing import Literal, TypeVar

from minivess.compute import hardware as machine
from minivess.compute.patch import shapes_of
from minivess.config import ExperimentConfig, TierConfig
from minivess.contracts import DatasetProfile, Hardware, Network
from minivess.errors import PlanError

log = logging.getLogger(__name__)

GIB = 1024**3
CACHE_SHARE = 0.6
CACHE_WARNING = 0.7
LITTLE_RAM_GB = 8.0
WORKER_SHARE, WORKER_GB = 0.1, 0.6
"""Share of the free memory for loader processes, and what one of them takes."""

Value = TypeVar("Value")
Reasoned = tuple[Value, str]
Device = Literal["cpu", "cuda"]
Precision = Literal["none", "bf16", "fp16"]


def precision(
    config: ExperimentConfig,
    network: Network,
    start: TierConfig,
    hardware: Hardware,
    device: Device,
) -> Reasoned[Precision]:
    """Mixed precision of a step.

    Raises:
        PlanError: fp16 on a CPU, or a network whose file says supports_amp: false.
    """
    asked = config.training.mixed_precision
    if not network.limits.supports_amp:
        if asked not in {"auto", "none"}:
            raise PlanError(
                f"training.mixed_precision={asked} is given, but "
                f"configs/models/{network.name}.yaml says supports_amp: false.",
                remedy="leave out one of the two",
            )
        return "none", f"configs/models/{network.name}.yaml says supports_amp: false"
    if asked != "auto":
        if asked == "fp16" and device == "cpu":
            raise PlanError(
                "training.mixed_precision=fp16 needs a GPU, and this machine trains on its CPU.",
                remedy="use training.mixed_precision=bf16 or none",
            )
        return asked, f"given as training.mixed_precision={asked}"
    if device == "cpu":
        return _cpu_precision(hardware)
    if not start.mixed_precision:
        return "none", f"tier {start.name} computes in float32"
    if hardware.bf16_is_fast:
        return "bf16", "this GPU computes bf16 natively, which needs no loss scaling"
    return "fp16", "this GPU has no bf16, but fp16"


def _cpu_precision(hardware: Hardware) -> Reasoned[Precision]:
    # Measured with avx512_bf16 and patches of 64x64x16: a step of DynUNet is 1.5 to 2.5 times as
    # fast with filters 32-64-128-256 and with 8-16-32 alike. Without it torch emulates bf16.
    native = machine.cpu_has_bf16() if hardware.gpu_count else hardware.bf16_is_fast
    if native:
        return "bf16", "this CPU computes bf16 natively: a step takes about half the time"
    return "none", "this CPU does not compute bf16 natively, so float32 is faster"


def loaded_gb(config: ExperimentConfig, network: Network, profile: DatasetProfile) -> float:
    """GiB of all volumes in memory: float32 images, uint8 labels."""
    voxels = sum(math.prod(s) for s in shapes_of(profile).values())
    return voxels * (4 * network.in_channels + 1) / GIB


def cache(
    config: ExperimentConfig, network: Network, profile: DatasetProfile, hardware: Hardware
) -> Reasoned[float]:
    """Share of the volumes kept in memory."""
    size = loaded_gb(config, network, profile)
    asked = config.training.cache_rate
    if asked != "auto":
        if asked * size > CACHE_WARNING * hardware.ram_available_gb:
            log.warning(
                "training.cache_rate=%g keeps %.1f GB of %.1f GB free memory",
                asked, asked * size, hardware.ram_available_gb,
            )  # fmt: skip
        return asked, f"given as training.cache_rate={asked}"
    share = CACHE_SHARE / 2 if _scarce(hardware) else CACHE_SHARE
    rate = min(1.0, share * hardware.ram_available_gb / size)
    return math.floor(rate * 100) / 100, (
        f"the volumes take {size:.2f} GB, and {share:.0%} of {hardware.ram_available_gb:.1f} GB "
        "free memory may hold them"
    )


def _scarce(hardware: Hardware) -> bool:
    return hardware.swap_total_gb == 0 and hardware.ram_available_gb < LITTLE_RAM_GB


def workers(
    config: ExperimentConfig, start: TierConfig, hardware: Hardware, device: Device
) -> Reasoned[int]:
    """Loader processes; on a CPU two cores are left to the step itself."""
    asked = config.training.num_workers
    if asked != "auto":
        return asked, f"given as training.num_workers={asked}"
    spare = hardware.cores - (2 if device == "cpu" else 1)
    by_memory = int(WORKER_SHARE * hardware.ram_available_gb / WORKER_GB)
    count = max(0, min(start.num_workers, spare, by_memory))
    if _scarce(hardware):
        count //= 2
    if count == 0:
        return 0, (
            f"{hardware.cores} cores and {hardware.ram_available_gb:.1f} GB leave none to spare: "
            "a step takes far longer than cutting its patches"
        )
    return count, f"up to {start.num_workers} of tier {start.name}, {hardware.cores} cores"


def threads(config: ExperimentConfig, hardware: Hardware) -> Reasoned[int]:
    """Threads of torch on the CPU."""
    asked = config.training.threads
    if asked != "auto":
        return asked, f"given as training.threads={asked}"
    return hardware.cores, f"all {hardware.cores} usable cores"


def iterations(config: ExperimentConfig, n_train: int, batch: int) -> Reasoned[int]:
    """Optimizer updates in an epoch: each patch sample once."""
    training = config.training
    if training.iterations_per_epoch != "auto":
        given = training.iterations_per_epoch
        return given, f"given as training.iterations_per_epoch={given}"
    patches = n_train * training.samples_per_volume
    per_step = batch * training.accumulation_steps
    return max(1, math.ceil(patches / per_step)), (
        f"{n_train} volumes x {training.samples_per_volume} patches, {per_step} in each update"
    )
