"""What the grid will cost: a few real steps are timed, and the rest is arithmetic."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from minivess import config as configuration
from minivess import inference, losses, networks
from minivess.compute.budget import loaded_gb
from minivess.compute.patch import shapes_of
from minivess.config import ExperimentConfig
from minivess.contracts import (
    CellResult,
    ComputePlan,
    DatasetProfile,
    Forecast,
    Network,
    Window,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

PROBE_S = 3.0
"""Seconds after which no further step is timed."""

PROBE_STEPS = 3
LOAD_S = 0.01
"""Cropping, turning and handing over one patch, where no worker does it meanwhile."""

JUDGE_S_PER_MEGAVOXEL = 0.15
"""Topology metrics of a volume: skeletons and surface distances."""

CELL_GB = 0.02
"""Logs, figures, configuration and metrics of one cell."""


class Times(NamedTuple):
    """Seconds of one training step and of one window without gradients."""

    step: float
    window: float
    steps: int


def forecast(
    config: ExperimentConfig,
    network: Network,
    plan: ComputePlan,
    profile: DatasetProfile,
    *,
    cells: int,
) -> Forecast:
    """Hours, memory and disk of `cells` cells, from a probe of a few seconds.

    Raises:
        UsageError: a loss of the grid cannot be built.
    """
    times = probe(config, network, plan)
    training = config.training
    patches = plan.iterations_per_epoch * training.accumulation_steps * plan.batch_size
    loading = 0.0 if plan.num_workers else LOAD_S * patches
    stepping = times.step * plan.iterations_per_epoch * training.accumulation_steps
    epoch = stepping + loading + _validation(config, plan, profile, times)
    return Forecast(
        cells=cells,
        seconds_per_step=times.step,
        seconds_per_epoch=epoch,
        total_hours=cells * training.max_epochs * epoch / 3600,
        ram_gb=max(plan.predicted_memory_gb, plan.predicted_window_gb)
        + plan.cache_rate * loaded_gb(config, network, profile),
        disk_gb=cells * _cell_gb(network),
        method=f"{times.steps} training steps and one window of the sliding window were timed on "
        "random data; loading and metrics are estimates; early stopping would end sooner",
    )


def _validation(
    config: ExperimentConfig, plan: ComputePlan, profile: DatasetProfile, times: Times
) -> float:
    """Seconds of the validation of an average fold, its topology metrics spread over epochs."""
    window = Window(
        patch_size=plan.patch_size,
        overlap=config.training.sliding_window_overlap,
        normalisation=config.data.normalisation,
    )
    shapes = shapes_of(profile).values()
    count = sum(inference.windows(shape, window, plan.divisor) for shape in shapes)
    judging = JUDGE_S_PER_MEGAVOXEL * sum(math.prod(shape) for shape in shapes) / 1e6
    share = 1 / min(config.training.folds, profile.n_volumes)
    return share * (count * times.window + judging / config.evaluation.interval_epochs)


def _cell_gb(network: Network) -> float:
    """Two best checkpoints, and the last one with its predecessor and Adam's two moments.

    They lie in the cell's folder and among MLflow's artifacts.
    """
    weights = networks.parameters(networks.initial(network, seed=0)) * 4 / 1024**3
    return CELL_GB + (2 + 2 * 3) * weights + (2 + 3) * weights


def forecast_metrics(cost: Forecast, epochs: int) -> dict[str, float]:
    """What was expected of one cell of this many epochs."""
    return {
        "forecast_seconds_per_epoch": cost.seconds_per_epoch,
        "forecast_seconds": cost.seconds_per_epoch * epochs,
        "forecast_memory_gb": cost.ram_gb,
        "forecast_disk_gb": cost.disk_gb / max(cost.cells, 1),
    }


def actual_metrics(result: CellResult) -> dict[str, float]:
    """What one cell took, beside its forecast; disk as far as its own files go."""
    return {
        "actual_seconds_per_epoch": result.training_time_seconds / max(result.epochs, 1),
        "actual_seconds": result.training_time_seconds,
        "actual_disk_gb": sum(result.files.values()) / 1024**3,
    }


# --- probe --------------------------------------------------------------------------------


def probe(config: ExperimentConfig, network: Network, plan: ComputePlan) -> Times:
    """Time real steps with the plan's patch, batch, precision and threads, over all losses."""
    with _threads(plan.threads):
        module = networks.initial(network, seed=0).to(plan.device)
        volume, target = _tubes(network, plan)
        # The first run of each kind sets up kernels and would double the forecast.
        window = min(_seconds(partial(_window, module, volume[:1], plan), plan) for _ in range(2))
        module.train()
        if config.training.gradient_checkpointing:
            networks.recompute(module)
        each = [
            losses.build(losses.resolve(configuration.loss(name)), network.out_channels)
            for name in config.training.losses
        ]
        timed = _timed_steps(module, each, volume, target, plan)
    return Times(step=sum(timed) / len(timed), window=window, steps=len(timed))


def _timed_steps(
    module: nn.Module, each: list[Any], volume: Tensor, target: Tensor, plan: ComputePlan
) -> list[float]:
    """Seconds of a step with each loss in turn, at least one each; the first step warms up."""
    import torch

    updater = torch.optim.AdamW(module.parameters(), lr=1e-4)
    best: list[float] = []
    begun = time.perf_counter()
    _seconds(partial(_step, module, each[0], updater, (volume, target), plan), plan)
    for loss in each:
        work = partial(_step, module, loss, updater, (volume, target), plan)
        timed = [_seconds(work, plan)]
        while len(timed) < PROBE_STEPS and time.perf_counter() - begun < PROBE_S:
            timed.append(_seconds(work, plan))
        best.append(min(timed))
    return best


def _step(
    module: nn.Module,
    loss: Any,
    updater: torch.optim.Optimizer,
    batch: tuple[Tensor, Tensor],
    plan: ComputePlan,
) -> None:
    with _autocast(plan):
        logits = module(batch[0])
    loss(logits, batch[1])["loss"].backward()
    updater.step()
    updater.zero_grad(set_to_none=True)


def _window(module: nn.Module, volume: Tensor, plan: ComputePlan) -> None:
    import torch

    with torch.inference_mode(), _autocast(plan):
        module.eval()(volume)


def _autocast(plan: ComputePlan) -> Any:
    import torch

    if plan.mixed_precision == "none":
        return nullcontext()
    kind = torch.bfloat16 if plan.mixed_precision == "bf16" else torch.float16
    return torch.autocast(plan.device, dtype=kind)


def _seconds(work: Callable[[], None], plan: ComputePlan) -> float:
    import torch

    begun = time.perf_counter()
    work()
    if plan.device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun


@contextmanager
def _threads(count: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _tubes(network: Network, plan: ComputePlan) -> tuple[Tensor, Tensor]:
    """A noisy batch with one bright tube in each patch: topology losses work on skeletons."""
    import torch

    x, y, z = plan.patch_size
    across = (torch.arange(x)[:, None, None] - x / 2) ** 2
    depth = (torch.arange(z)[None, None, :] - z / 2) ** 2
    tube = (across + depth < max(2.0, x / 16) ** 2).expand(x, y, z)
    target = tube[None, None].expand(plan.batch_size, 1, x, y, z).long()
    volume = target.float().repeat(1, network.in_channels, 1, 1, 1)
    noise = torch.linspace(-1, 1, volume.numel()).sin().reshape(volume.shape)
    return (volume + noise).to(plan.device), target.to(plan.device)
