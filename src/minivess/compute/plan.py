"""The adaptive decision: from machine, data and network to patch, batch, workers, precision.

Each value says why it is so and which word overrides it. A value that the user gives is used as
it is, or refused: it is never changed quietly.
"""

from __future__ import annotations

import logging
import math
from typing import Any, Literal

from minivess import config as configuration
from minivess import networks
from minivess.compute import hardware as machine
from minivess.compute import memory
from minivess.compute.patch import as_trained, fitting, nearest, padding, shape_text, step_down
from minivess.config import ComputeConfig, ExperimentConfig, TierConfig
from minivess.contracts import Choice, ComputePlan, DatasetProfile, Hardware, Network, Shape
from minivess.errors import PlanError

log = logging.getLogger(__name__)

MEMORY_SHARE = 0.8
CACHE_SHARE = 0.6
CACHE_WARNING = 0.7
LITTLE_RAM_GB = 8.0
WORKER_GB = 0.6
SINGLE_TIERS = ((48, "cloud_single"), (24, "dgx_spark"), (10, "gpu_high"), (6, "gpu_low"))

Device = Literal["cpu", "cuda"]


def resolve(
    config: ExperimentConfig,
    network: Network,
    profile: DatasetProfile,
    hardware: Hardware,
    *,
    n_train: int,
) -> ComputePlan:
    """Decide everything that is `auto`; `n_train` is the number of volumes a cell trains on.

    Raises:
        PlanError: a given value does not fit, or nothing fits the memory.
    """
    training = config.training
    start, tier_reason = tier(hardware, config.compute)
    device, device_reason = _device(config, start, hardware)
    precision, precision_reason = _precision(config, start, hardware, device)
    cache_rate, cache_reason = _cache(config, network, profile, hardware)
    cached = cache_rate * loaded_gb(config, network, profile)
    free = hardware.gpu_free_gb if device == "cuda" else hardware.ram_available_gb - cached
    sizes = _Sizes(config, network, profile, start, precision)
    patch, batch, needed = sizes.shrunk_to(MEMORY_SHARE * max(free or 0.0, 0.0), n_train)
    workers, workers_reason = _workers(config, start, hardware, device)
    iterations, iterations_reason = _iterations(config, n_train, batch)
    threads = hardware.cores if training.threads == "auto" else training.threads
    choices = {
        "tier": Choice(value=start.name, reason=tier_reason, override="compute.profile=cpu"),
        "device": Choice(value=device, reason=device_reason, override="training.device=cpu"),
        "patch_size": sizes.patch_choice(patch),
        "batch_size": sizes.batch_choice(batch),
        "num_workers": _choice("num_workers", workers, workers_reason),
        "cache_rate": _choice("cache_rate", cache_rate, cache_reason),
        "mixed_precision": _choice("mixed_precision", precision, precision_reason),
        "threads": _choice("threads", threads, _threads_reason(config, hardware)),
        "iterations_per_epoch": _choice("iterations_per_epoch", iterations, iterations_reason),
    }
    return ComputePlan(
        tier=start.name,
        device=device,
        patch_size=patch,
        batch_size=batch,
        num_workers=workers,
        cache_rate=cache_rate,
        mixed_precision=precision,
        threads=threads,
        iterations_per_epoch=iterations,
        divisor=networks.divisor(network),
        predicted_memory_gb=round(needed, 3),
        memory_budget_gb=round(MEMORY_SHARE * max(free or 0.0, 0.0), 3),
        padded=padding(as_trained(profile, config.data.resampling), patch),
        choices=choices,
    )


def _choice(field: str, value: Any, reason: str) -> Choice:
    return Choice(value=value, reason=reason, override=f"training.{field}={value}")


# --- tier and device ----------------------------------------------------------------------


def tier(hardware: Hardware, compute: ComputeConfig) -> tuple[TierConfig, str]:
    """The budget to start from, and why; GPU memory counts in whole GB."""
    if compute.profile != "auto":
        return configuration.tier(compute.profile), f"given as compute.profile={compute.profile}"
    if hardware.gpu_vram_gb is None:
        return configuration.tier("cpu"), "no GPU was found"
    nominal = round(hardware.gpu_vram_gb)
    name = next((name for least, name in SINGLE_TIERS if nominal >= least), "cpu")
    if name == "cpu":
        log.warning(
            "%s has %d GB, too little to train on; using the CPU", hardware.gpu_model, nominal
        )
        return configuration.tier("cpu"), f"{hardware.gpu_model} has {nominal} GB, less than 6"
    single = configuration.tier(name)
    if hardware.gpu_count == 1:
        return single, f"{hardware.gpu_model} has {nominal} GB"
    several = configuration.tier("cloud_multi").model_copy(update={"batch_size": single.batch_size})
    return several, f"{hardware.gpu_count} GPUs of {nominal} GB, one cell on each"


def _device(config: ExperimentConfig, start: TierConfig, hardware: Hardware) -> tuple[Device, str]:
    import torch

    asked, usable = config.training.device, hardware.gpu_count > 0 and torch.cuda.is_available()
    if asked == "cuda" and not usable:
        raise PlanError(
            "training.device=cuda is asked for, but torch sees no GPU here.",
            remedy="leave out training.device, or install torch for CUDA and check nvidia-smi",
        )
    if asked != "auto":
        return asked, f"given as training.device={asked}"
    if start.name == "cpu" or hardware.gpu_count == 0:
        return "cpu", "the tier is cpu" if start.name == "cpu" else "no GPU was found"
    if not usable:
        log.warning("there is a GPU, but torch %s cannot use it", torch.__version__)
        return "cpu", f"there is a GPU, but torch {torch.__version__} was built without CUDA"
    return "cuda", f"{hardware.gpu_model} is free for training"


def _precision(
    config: ExperimentConfig, start: TierConfig, hardware: Hardware, device: Device
) -> tuple[Literal["none", "bf16", "fp16"], str]:
    asked = config.training.mixed_precision
    if asked != "auto":
        if asked == "fp16" and device == "cpu":
            raise PlanError(
                "training.mixed_precision=fp16 needs a GPU, and this machine trains on its CPU.",
                remedy="use training.mixed_precision=bf16 or none",
            )
        return asked, f"given as training.mixed_precision={asked}"
    if device == "cpu":
        # Measured with avx512_bf16: a step of DynUNet is 1.5 to 2.1 times as fast, from
        # filters 8-16-32 up to 32-64-128-256. Without it the CPU emulates bf16 and is slower.
        if hardware.gpu_count == 0 and hardware.bf16_is_fast:
            return "bf16", "this CPU computes bf16 natively: a step takes about half the time"
        return "none", "this CPU does not compute bf16 natively, so it would be slower"
    if not start.mixed_precision:
        return "none", f"tier {start.name} computes in float32"
    if hardware.bf16_is_fast:
        return "bf16", "this GPU computes bf16 natively, which needs no loss scaling"
    return "fp16", "this GPU has no bf16, but fp16"


# --- patch and batch ----------------------------------------------------------------------


class _Sizes:
    """Patch and batch within data and memory."""

    def __init__(
        self,
        config: ExperimentConfig,
        network: Network,
        profile: DatasetProfile,
        start: TierConfig,
        precision: Literal["none", "bf16", "fp16"],
    ) -> None:
        self.training = config.training
        self.strategy = config.compute.patch_strategy
        self.network = network
        self.start = start
        self.precision = precision
        self.divisor = networks.divisor(network)
        self.shapes = as_trained(profile, config.data.resampling)
        self.notes: list[str] = []

    def shrunk_to(self, budget_gb: float, n_train: int) -> tuple[Shape, int, float]:
        """(patch, batch, predicted GiB): the start, stepped down until it fits the budget."""
        patch = self.first_patch()
        batch = self.first_batch(n_train)
        needed = self.needed(patch, batch)
        while needed > budget_gb:
            down = step_down(
                patch,
                batch,
                divisor=self.divisor,
                keep_patch=self.training.patch_size != "auto",
                keep_batch=self.training.batch_size != "auto",
            )
            if down is None:
                raise self._too_large(patch, batch, needed, budget_gb)
            patch, batch = down
            needed = self.needed(patch, batch)
            self.notes = [
                f"shrunk until a step needs under 80 % of the free memory ({needed:.1f} GB)"
            ]
        if not networks.accepts(self.network, patch, batch):
            raise self._refused(patch)
        return patch, batch, needed

    def first_patch(self) -> Shape:
        """The patch before memory is looked at."""
        if self.training.patch_size != "auto":
            return self.given_patch(self.training.patch_size)
        axes = list(zip(*self.shapes.values(), strict=True))
        if self.strategy == "median_pad":
            limit = tuple(sorted(axis)[len(axis) // 2] for axis in axes)
        else:
            limit = tuple(min(axis) for axis in axes)
        wanted = [min(a, b) for a, b in zip(self.start.patch_size, limit, strict=True)]
        return fitting((wanted[0], wanted[1], wanted[2]), self.divisor, self.shapes)

    def given_patch(self, patch: Shape) -> Shape:
        """The user's patch, unless it does not divide or does not fit.

        Raises:
            PlanError: naming the nearest patch that does.
        """
        smallest = min(self.shapes, key=lambda case: min(self._slack(case, patch)))
        if any(side % step for side, step in zip(patch, self.divisor, strict=True)):
            problem = (
                f"is not divisible by {shape_text(self.divisor)}, which {self.network.name} needs"
            )
        elif min(self._slack(smallest, patch)) < 0:
            problem = (
                f"does not fit {smallest}, which has {shape_text(self.shapes[smallest])} voxels"
            )
        else:
            return patch
        near = nearest(patch, self.divisor, self.shapes)
        raise PlanError(
            f"training.patch_size={shape_text(patch)} {problem}.",
            remedy=f"'training.patch_size=[{near[0]},{near[1]},{near[2]}]', or leave it out",
        )

    def _slack(self, case: str, patch: Shape) -> tuple[int, ...]:
        return tuple(a - b for a, b in zip(self.shapes[case], patch, strict=True))

    def first_batch(self, n_train: int) -> int:
        """The batch before memory is looked at: never more patches than an epoch has."""
        if self.training.batch_size != "auto":
            return self.training.batch_size
        return max(1, min(self.start.batch_size, n_train * self.training.samples_per_volume))

    def needed(self, patch: Shape, batch: int) -> float:
        """GiB of a step."""
        return memory.predict(
            self.network,
            patch=patch,
            batch=batch,
            precision=self.precision,
            optimizer=self.training.optimizer,
            checkpointing=self.training.gradient_checkpointing,
        )

    def patch_choice(self, patch: Shape) -> Choice:
        """Why this patch."""
        override = f"'training.patch_size=[{patch[0]},{patch[1]},{patch[2]}]'"
        if self.training.patch_size != "auto":
            reason = f"given as training.patch_size={shape_text(patch)}"
        else:
            limit = "the median volume" if self.strategy == "median_pad" else "the smallest volume"
            reason = "; ".join(
                [
                    f"{shape_text(self.start.patch_size)} of tier {self.start.name}, "
                    f"within {limit}, in multiples of {shape_text(self.divisor)} (strides of {self.network.name})",
                    *self.notes,
                ]
            )
        return Choice(value=patch, reason=reason, override=override)

    def batch_choice(self, batch: int) -> Choice:
        """Why this batch."""
        if self.training.batch_size != "auto":
            return _choice("batch_size", batch, f"given as training.batch_size={batch}")
        reasons = [f"{self.start.batch_size} of tier {self.start.name}", *self.notes]
        return _choice("batch_size", batch, "; ".join(reasons))

    def _too_large(self, patch: Shape, batch: int, needed: float, budget: float) -> PlanError:
        return PlanError(
            f"A step of {self.network.name} with patch {shape_text(patch)} and batch {batch} needs "
            f"{needed * 1024:.0f} MB, and {budget * 1024:.0f} MB may be used.",
            remedy="a smaller network (model.filters=[8,16,32]), "
            "training.gradient_checkpointing=true, or close other programs",
        )

    def _refused(self, patch: Shape) -> PlanError:
        return PlanError(
            f"{self.network.name} takes no patch of {shape_text(patch)}: at its deepest level "
            "one voxel would be left.",
            remedy="fewer levels (model.filters=[8,16,32]), or leave out training.patch_size",
        )


# --- cache, workers, steps ----------------------------------------------------------------


def loaded_gb(config: ExperimentConfig, network: Network, profile: DatasetProfile) -> float:
    """GiB of all volumes in memory: float32 images, uint8 labels."""
    voxels = sum(math.prod(s) for s in as_trained(profile, config.data.resampling).values())
    return voxels * (4 * network.in_channels + 1) / machine.GIB


def _cache(
    config: ExperimentConfig, network: Network, profile: DatasetProfile, hardware: Hardware
) -> tuple[float, str]:
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
    rounded = math.floor(rate * 100) / 100
    return rounded, (
        f"the volumes take {size:.2f} GB, and {share:.0%} of {hardware.ram_available_gb:.1f} GB "
        "free memory may hold them"
    )


def _scarce(hardware: Hardware) -> bool:
    return hardware.swap_total_gb == 0 and hardware.ram_available_gb < LITTLE_RAM_GB


def _workers(
    config: ExperimentConfig, start: TierConfig, hardware: Hardware, device: Device
) -> tuple[int, str]:
    asked = config.training.num_workers
    if asked != "auto":
        return asked, f"given as training.num_workers={asked}"
    spare = hardware.cores - (2 if device == "cpu" else 1)
    by_memory = int(0.1 * hardware.ram_available_gb / WORKER_GB)
    workers = max(0, min(start.num_workers, spare, by_memory))
    if _scarce(hardware):
        workers //= 2
    if workers == 0:
        return 0, (
            f"{hardware.cores} cores and {hardware.ram_available_gb:.1f} GB leave none to spare: "
            "a step takes far longer than cutting its patches"
        )
    return workers, f"up to {start.num_workers} of tier {start.name}, {hardware.cores} cores"


def _threads_reason(config: ExperimentConfig, hardware: Hardware) -> str:
    if config.training.threads != "auto":
        return f"given as training.threads={config.training.threads}"
    return f"all {hardware.cores} usable cores"


def _iterations(config: ExperimentConfig, n_train: int, batch: int) -> tuple[int, str]:
    training = config.training
    if training.iterations_per_epoch != "auto":
        given = training.iterations_per_epoch
        return given, f"given as training.iterations_per_epoch={given}"
    patches = n_train * training.samples_per_volume
    per_step = batch * training.accumulation_steps
    return max(1, math.ceil(patches / per_step)), (
        f"{n_train} volumes x {training.samples_per_volume} patches, {per_step} in each update"
    )


# --- what flows ask -----------------------------------------------------------------------


def safe_patch(network: Network, profile: DatasetProfile) -> Shape:
    """The largest patch that fits every volume without padding and suits the network.

    Raises:
        PlanError: the smallest volume is below the network's divisor.
    """
    shapes = {volume.case: volume.shape for volume in profile.volumes}
    return fitting(profile.min_shape, networks.divisor(network), shapes)


def guard(
    plan: ComputePlan,
    profile: DatasetProfile,
    *,
    config: ExperimentConfig | None = None,
    hardware: Hardware | None = None,
    disk_gb: float = 0.0,
) -> None:
    """Hold the plan against the data and the machine before hours are spent.

    Raises:
        PlanError: the patch is not divisible or exceeds a volume that is not padded, the cache
            does not fit the memory, or `disk_gb` does not fit the disk.
    """
    resampling = (config or ExperimentConfig()).data.resampling
    shapes = as_trained(profile, resampling)
    _guard_patch(plan, shapes)
    available = hardware.ram_available_gb if hardware else machine.memory()[1]
    cached = plan.cache_rate * sum(math.prod(shape) for shape in shapes.values()) * 5 / machine.GIB
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
            f"The patch {shape_text(plan.patch_size)} is not divisible by "
            f"{shape_text(plan.divisor)}.",
            remedy="leave out training.patch_size",
        )
    for case, missing in padding(shapes, plan.patch_size).items():
        if any(a > b for a, b in zip(missing, plan.padded.get(case, (0, 0, 0)), strict=True)):
            raise PlanError(
                f"A patch of {shape_text(plan.patch_size)} does not fit {case}, which has "
                f"{shape_text(shapes[case])} voxels.",
                remedy="leave out training.patch_size, or set compute.patch_strategy=median_pad",
            )
