"""Plan a training: patch, batch, workers and precision from machine, data and network.

Each value has its reason and the override that changes it. A value that the user gives is used
or rejected, never changed.
"""

from __future__ import annotations

import logging
import math
import statistics
from pathlib import Path

from minivess import config as configuration
from minivess import networks
from minivess.compute import choices, judging
from minivess.compute import hardware as machine
from minivess.compute.choices import USER
from minivess.compute.memory.prediction import Footprint
from minivess.compute.patch import fitting, padding, shapes_of
from minivess.compute.patch_and_batch import PatchAndBatch
from minivess.config import ComputeConfig, ExperimentConfig, TierConfig
from minivess.contracts import Choice, ComputePlan, DatasetProfile, Hardware, Network, Shape
from minivess.errors import PlanError
from minivess.runtime.cgroups import GIB
from minivess.text import format_shape

log = logging.getLogger(__name__)

MEMORY_SHARE = 0.8
SINGLE_TIERS = ((48, "cloud_single"), (24, "dgx_spark"), (10, "gpu_high"), (6, "gpu_low"))


def resolve(
    config: ExperimentConfig,
    network: Network,
    profile: DatasetProfile,
    hardware: Hardware,
    *,
    n_train: int,
    cache: Path | None = None,
) -> ComputePlan:
    """Decide everything that is `auto`; `n_train` is the number of volumes a cell trains on.

    `cache` is the folder where divisors and memory of networks are kept.

    Raises:
        PlanError: a given value does not fit, or nothing fits the memory.
    """
    start, chosen = tier(hardware, config.compute, config.training.processes_per_cell)
    on = _device(config, start, hardware)
    precision = choices.precision(config, network, start, hardware, on.value)
    found = Footprint(config, network, precision.value, device=on.value, cache=cache)
    sizes = PatchAndBatch(config, found, profile, start)
    step_gb = sizes.least_gb(n_train) / MEMORY_SHARE if on.value == "cpu" else 0.0
    kept, kept_gb = choices.cache(config, network, profile, hardware, step_gb=step_gb)
    free_gb = hardware.gpu_free_gb if on.value == "cuda" else hardware.ram_available_gb - kept_gb
    budget_gb = MEMORY_SHARE * max(free_gb or 0.0, 0.0)
    patch, batch = sizes.shrunk_to(budget_gb, n_train)
    window = sizes.window_choice(patch, batch)
    judged = judging.Sizes(patch, window.value, found.divisor)
    whole = judging.windows(config, profile, judged, 1.0)
    volumes = judging.n_val(config, profile, n_train)
    updates = judging.iterations(config, n_train, batch, whole, volumes)
    schedule = sizes.schedule(patch)
    part = statistics.fmean(map(math.prod, schedule)) / math.prod(patch)
    patches = part * updates.value * batch * config.training.accumulation_steps
    made = {
        "tier": chosen,
        "device": on,
        "patch_size": sizes.patch_choice(patch, batch),
        "prediction_window": window,
        "batch_size": sizes.batch_choice(patch, batch),
        "num_workers": choices.workers(config, start, hardware, on.value),
        "cache_rate": kept,
        "mixed_precision": precision,
        "threads": choices.threads(config, hardware),
        "iterations_per_epoch": updates,
        **judging.chosen(config, profile, judged, n_train=n_train, patches=patches),
    }
    share = made["validation_share"].value
    return ComputePlan(
        **{name: choice.value for name, choice in made.items()},
        patch_schedule=schedule,
        divisor=found.divisor,
        predicted_memory_gb=round(found.step_gb(patch, batch), 3),
        predicted_window_gb=round(found.window_gb(window.value, profile.max_shape), 3),
        memory_budget_gb=round(budget_gb, 3),
        padded=padding(shapes_of(profile), patch),
        n_val=volumes,
        windows=whole,
        windows_between=judging.windows(config, profile, judged, share),
        choices=made | sizes.schedule_choice(schedule),
    )


# --- tier and device ----------------------------------------------------------------------


def tier(
    hardware: Hardware, compute: ComputeConfig, processes: int = 1
) -> tuple[TierConfig, Choice]:
    """Choose the tier to start from, with its reason; GPU memory counts in whole GB."""
    if compute.profile != "auto":
        start = configuration.tier(compute.profile)
        return start, _tier(start, f"given as compute.profile={compute.profile}", bound=USER)
    if hardware.gpu_vram_gb is None:
        return _by_name("cpu", "no GPU was found", "gpu_low would need a GPU of 6 GB")
    nominal = round(hardware.gpu_vram_gb)
    fits = [name for least, name in SINGLE_TIERS if nominal >= least]
    above = [
        f"{name} would need a GPU of {least} GB" for least, name in SINGLE_TIERS if nominal < least
    ]
    if not fits:
        log.warning(
            "%s has %d GB, too little to train on; using the CPU", hardware.gpu_model, nominal
        )
        return _by_name("cpu", f"{hardware.gpu_model} has {nominal} GB, less than 6", above[-1])
    more = above[-1] if above else "cloud_multi would need a second GPU"
    single, choice = _by_name(fits[0], f"{hardware.gpu_model} has {nominal} GB", more)
    if hardware.gpu_count == 1:
        return single, choice
    if processes > 1:
        whole = configuration.tier("cloud_multi")
        reason = f"{processes} GPUs of {nominal} GB share each batch"
        return whole, _tier(whole, reason, bound="the GPUs")
    several = configuration.tier("cloud_multi").model_copy(update={"batch_size": single.batch_size})
    reason = f"{hardware.gpu_count} GPUs of {nominal} GB, one cell on each"
    return several, _tier(several, reason, bound="the GPUs")


def _by_name(name: str, reason: str, more: str) -> tuple[TierConfig, Choice]:
    start = configuration.tier(name)
    return start, _tier(start, reason, bound="no GPU" if name == "cpu" else "the GPU", more=more)


def _tier(start: TierConfig, reason: str, **others: str) -> Choice:
    return Choice(value=start.name, reason=reason, override="compute.profile=cpu", **others)


def _device(config: ExperimentConfig, start: TierConfig, hardware: Hardware) -> Choice:
    asked, usable = config.training.device, hardware.gpu_count > 0 and hardware.torch_uses_gpu
    if asked == "cuda" and not usable:
        raise PlanError(
            "training.device=cuda is asked for, but torch sees no GPU here.",
            remedy="leave out training.device, or install torch for CUDA and check nvidia-smi",
        )
    if asked != "auto":
        return choices.given("device", asked)
    if start.name == "cpu" or hardware.gpu_count == 0:
        reason = "the tier is cpu" if start.name == "cpu" else "no GPU was found"
        more = "cuda would need a GPU of 6 GB"
        return choices.found("device", "cpu", reason, bound=f"tier {start.name}", more=more)
    if not usable:
        log.warning("there is a GPU, but this build of torch cannot use it")
        reason = "there is a GPU, but this build of torch cannot use it"
        more = "cuda would need a build of torch that fits the driver"
        return choices.found("device", "cpu", reason, bound="torch", more=more)
    reason = f"{hardware.gpu_model}, {hardware.gpu_free_gb:.0f} GB of it free"
    return choices.found("device", "cuda", reason, bound="one cell on one GPU", more="")


# --- checks -----------------------------------------------------------------------


def safe_patch(network: Network, profile: DatasetProfile) -> Shape:
    """The largest patch that fits every volume without padding and suits the network.

    Raises:
        PlanError: the smallest volume is below the network's divisor.
    """
    return fitting(profile.min_shape, networks.divisor(network), shapes_of(profile))


def guard(
    plan: ComputePlan,
    profile: DatasetProfile,
    *,
    hardware: Hardware | None = None,
    disk_gb: float = 0.0,
) -> None:
    """Check the plan against the data and the machine before a long training.

    Raises:
        PlanError: the patch is not divisible or exceeds a volume that is not padded, the cache
            does not fit the memory, or `disk_gb` does not fit the disk.
    """
    shapes = shapes_of(profile)
    _guard_patch(plan, shapes)
    available = hardware.ram_available_gb if hardware else machine.memory()[1]
    cached = plan.cache_rate * sum(math.prod(shape) for shape in shapes.values()) * 5 / GIB
    if cached > available:
        rate = math.floor(60 * available / cached * plan.cache_rate) / 100
        raise PlanError(
            f"A cache of {plan.cache_rate:.0%} of the volumes takes {cached:.1f} GB, and "
            f"{available:.1f} GB are free.",
            remedy=f"training.cache_rate={rate}",
        )
    if hardware is not None and disk_gb > hardware.disk_free_gb:
        raise PlanError(
            f"Checkpoints and runs take about {disk_gb:.1f} GB, and {hardware.disk_free_gb:.1f} GB "
            "are free where results are written.",
            remedy="free some space, or write elsewhere with MINIVESS_HOME=/path/to/folder",
        )


def _guard_patch(plan: ComputePlan, shapes: dict[str, Shape]) -> None:
    if any(side % step for side, step in zip(plan.patch_size, plan.divisor, strict=True)):
        raise PlanError(
            f"The patch {format_shape(plan.patch_size)} is not divisible by "
            f"{format_shape(plan.divisor)}.",
            remedy="leave out training.patch_size",
        )
    for case, missing in padding(shapes, plan.patch_size).items():
        if any(a > b for a, b in zip(missing, plan.padded.get(case, (0, 0, 0)), strict=True)):
            raise PlanError(
                f"A patch of {format_shape(plan.patch_size)} does not fit {case}, which has "
                f"{format_shape(shapes[case])} voxels.",
                remedy="leave out training.patch_size, or set compute.patch_strategy=median_pad",
            )
