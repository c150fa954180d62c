"""Choose precision, cache, workers, threads and steps, each with its reason."""

from __future__ import annotations

import logging
import math
from typing import Any, Literal

from minivess.compute.patch import shapes_of
from minivess.config import ExperimentConfig, TierConfig
from minivess.contracts import Choice, DatasetProfile, Hardware, Network
from minivess.errors import PlanError
from minivess.runtime.cgroups import GIB

log = logging.getLogger(__name__)

CACHE_SHARE = 0.6
CACHE_WARNING = 0.7
LITTLE_RAM_GB = 8.0
UNCACHED_GB = (1 - CACHE_SHARE / 2) * LITTLE_RAM_GB
"""Without swap this much stays uncached before more than half the share is used. A plain threshold
would leave a step less memory on a machine that has more."""

WORKER_SHARE, WORKER_GB = 0.1, 0.6
"""Share of the free memory for loader processes, and what one of them takes."""

WORTHWHILE = 1.1
"""How many times as fast a step in bf16 must be."""

USER, MEMORY = "your setting", "memory"
Device = Literal["cpu", "cuda"]


def given(name: str, value: Any) -> Choice:
    """Make the choice of a value that the user gave."""
    listed = isinstance(value, tuple)
    shown = "[" + ",".join(map(str, value)) + "]" if listed else value
    override = f"training.{name}={shown}"
    quoted = f"'{override}'" if listed else override
    return Choice(value=value, reason=f"given as {override}", override=quoted, bound=USER)


def found(name: str, value: Any, reason: str, *, bound: str, more: str) -> Choice:
    """Make an automatic choice: the limit that it meets, and what one more step would need."""
    return given(name, value).replace(reason=reason, bound=bound, more=more)


# --- precision ----------------------------------------------------------------------------


def precision(
    config: ExperimentConfig,
    network: Network,
    start: TierConfig,
    hardware: Hardware,
    device: Device,
) -> Choice:
    """Mixed precision of a step.

    Raises:
        PlanError: fp16 on a CPU, or a network whose file says supports_amp: false.
    """
    asked, file = config.training.mixed_precision, f"configs/models/{network.name}.yaml"
    if asked == "auto" and not network.limits.supports_amp:
        return _precision("none", f"{file} says supports_amp: false", file)
    if asked == "auto":
        if not start.mixed_precision:
            tier = f"tier {start.name}"
            return _precision("none", f"{tier} says mixed_precision: false", tier)
        return _on_gpu(hardware) if device == "cuda" else _on_cpu(hardware)
    if asked != "none" and not network.limits.supports_amp:
        raise PlanError(
            f"training.mixed_precision={asked} is given, but {file} says supports_amp: false.",
            remedy="leave out one of the two",
        )
    if asked == "fp16" and device == "cpu":
        raise PlanError(
            "training.mixed_precision=fp16 needs a GPU, and this machine trains on its CPU.",
            remedy="use training.mixed_precision=bf16 or none",
        )
    return given("mixed_precision", asked)


def _precision(value: str, reason: str, bound: str, more: str = "") -> Choice:
    return found("mixed_precision", value, reason, bound=bound, more=more)


def _on_cpu(hardware: Hardware) -> Choice:
    gain = hardware.bf16_gains.get("cpu")
    fast = hardware.bf16_is_fast and not hardware.gpu_count if gain is None else gain > WORTHWHILE
    why = (
        f"this CPU has {'' if fast else 'no '}instructions for bf16"
        if gain is None
        else f"a small step in bf16 is {gain:.2g} times as fast as in float32, as timed here"
    )
    if fast:
        return _precision("bf16", why, "this CPU")
    return _precision("none", why, "this CPU", f"bf16 would need to be {WORTHWHILE} times as fast")


def _on_gpu(hardware: Hardware) -> Choice:
    gain = hardware.bf16_gains.get("cuda")
    fast = hardware.bf16_is_fast if gain is None else gain > WORTHWHILE
    if fast:
        timed = "" if gain is None else f", {gain:.2g} times as fast as float32, as timed here"
        why = f"this GPU computes bf16 natively{timed}; it needs no loss scaling"
        return _precision("bf16", why, "this GPU")
    return _precision(
        "fp16", "this GPU has no fast bf16, but fp16", "this GPU", "bf16 would need a newer GPU"
    )


# --- memory and cores ---------------------------------------------------------------------


def loaded_gb(network: Network, profile: DatasetProfile) -> float:
    """GiB of all volumes in memory: float32 images, uint8 labels."""
    voxels = sum(math.prod(s) for s in shapes_of(profile).values())
    return voxels * (4 * network.in_channels + 1) / GIB


def cache(
    config: ExperimentConfig,
    network: Network,
    profile: DatasetProfile,
    hardware: Hardware,
    *,
    step_gb: float,
) -> tuple[Choice, float]:
    """Share of the volumes kept in memory, and the GiB set aside for them.

    `step_gb` of the free memory are not for volumes: without them the smallest step would not run.
    """
    size, free = loaded_gb(network, profile), hardware.ram_available_gb
    asked = config.training.cache_rate
    if asked != "auto":
        if asked * size > CACHE_WARNING * free:
            log.warning(
                "training.cache_rate=%g keeps %.1f GB of %.1f GB free memory, more than %.0f %%",
                asked, asked * size, free, CACHE_WARNING * 100,
            )  # fmt: skip
        return given("cache_rate", asked), asked * size
    most = CACHE_SHARE * free
    if not hardware.swap_total_gb:
        most = min(most, max(most / 2, free - UNCACHED_GB))
    held = min(size, most, max(0.0, free - step_gb))
    rate = math.floor(held / size * 100) / 100
    choice = found(
        "cache_rate",
        rate,
        f"the volumes take {size:.2g} GB, and {most / free:.0%} of {free:.1f} GB free memory may "
        f"hold them{'' if most == CACHE_SHARE * free else ', as there is no swap'}"
        + (f"; {step_gb:.1f} GB are left to the step" if held < min(size, most) else ""),
        bound=MEMORY if held < size else "the dataset",
        more=f"all of them would need {size / CACHE_SHARE:.1f} GB free" if held < size else "",
    )
    return choice, held


def _scarce(hardware: Hardware) -> bool:
    return hardware.swap_total_gb == 0 and hardware.ram_available_gb < LITTLE_RAM_GB


def workers(
    config: ExperimentConfig, start: TierConfig, hardware: Hardware, device: Device
) -> Choice:
    """Loader threads; on a CPU two cores are left to the step itself."""
    asked = config.training.num_workers
    if asked != "auto":
        return given("num_workers", asked)
    kept, halved = 2 if device == "cpu" else 1, 2 if _scarce(hardware) else 1
    limits = {
        f"tier {start.name}": start.num_workers,
        "cores": max(0, hardware.cores - kept),
        MEMORY: int(WORKER_SHARE * hardware.ram_available_gb / WORKER_GB),
    }
    bound = min(limits, key=lambda name: limits[name])
    count = limits[bound] // halved
    need = {
        "cores": f"{halved * (count + 1) + kept} cores",
        MEMORY: f"{halved * (count + 1) * WORKER_GB / WORKER_SHARE:.0f} GB free memory",
    }.get(bound, "a higher tier")
    left = f"{kept} of {hardware.cores} cores {'are' if kept > 1 else 'is'} left to the step"
    if hardware.cores <= kept:
        left = "the step itself takes every core"
    reason = f"{start.num_workers} at most in tier {start.name}; {left}"
    return found(
        "num_workers",
        count,
        reason + ("; half of them, as memory is scarce and there is no swap" if halved > 1 else ""),
        bound=bound,
        more=f"{count + 1} would need {need}",
    )


def threads(config: ExperimentConfig, hardware: Hardware) -> Choice:
    """Threads of torch on the CPU."""
    asked = config.training.threads
    if asked != "auto":
        return given("threads", asked)
    if hardware.omp_threads is not None:
        stated = f"OMP_NUM_THREADS={hardware.omp_threads}"
        return given("threads", hardware.omp_threads).replace(reason=stated)
    count = hardware.cores
    return found(
        "threads", count, "every core that may be used",
        bound="cores", more=f"{count + 1} would need {count + 1} cores",
    )  # fmt: skip
