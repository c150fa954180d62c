"""Forecast time, memory and disk of the grid from a few timed steps."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from minivess import networks
from minivess.compute import judging, layout
from minivess.compute.choices import loaded_gb
from minivess.compute.memory.prediction import map_bytes, process_gb
from minivess.compute.patch import shapes_of
from minivess.compute.reporting import peak_memory
from minivess.config import ExperimentConfig
from minivess.contracts import (
    CellResult,
    ComputePlan,
    DatasetProfile,
    Forecast,
    Network,
)
from minivess.runtime.cgroups import GIB

CELL_GB = 0.01
"""Figures, logs, configuration and metrics of one cell."""

UNSURE = 1.2
"""How much longer a grid may take than was forecast, although each step took as long."""

METRIC_BYTES = 24
"""For each voxel of the largest volume: its metrics in a thread, 4 for a good mask of 512x512x26
voxels and 36 for noise; labels that are prepared stay beside."""

BESIDE_GB = 0.05
"""Pictures, metrics in threads and what is on its way to MLflow; 0.03 to 0.08 in cells of the demo
volumes, beyond what their process held before."""


class Times(NamedTuple):
    """Seconds of a step, of making its batch, of one window, and of judging one voxel.

    Attributes:
        steps: How many were timed.
        quiet: Share of a step's time in which the processor worked on it.
        slow: The slowest step over the fastest.
        ratios: Threads -> time of a step over that with as many as `step` was timed with.
    """

    step: float
    load: float
    window: float
    judge: float
    steps: int
    quiet: float = 1.0
    slow: float = 1.0
    ratios: Mapping[int, float] = MappingProxyType({})

    def at(self, threads: int) -> Times:
        """The times with so many threads."""
        ratio = self.ratios.get(threads, 1.0)
        return self._replace(step=self.step * ratio, window=self.window * ratio)


def forecast(
    config: ExperimentConfig,
    network: Network,
    plan: ComputePlan,
    profile: DatasetProfile,
    times: Times,
    *,
    n_train: Sequence[int],
    held_gb: float,
) -> Forecast:
    """Hours, memory and disk of a grid, from what a probe of a few seconds timed.

    Args:
        n_train: number of training volumes of each cell.
        held_gb: main memory that the process which trains holds before it does.
    """
    cells, training = len(n_train), config.training
    epoch = epoch_s(config, plan, profile, times, n_train=n_train)
    total = layout.grid_s(plan, training.max_epochs * epoch, cells) / 3600
    on_gpu = plan.device == "cuda"
    process = max(plan.predicted_memory_gb, plan.predicted_window_gb)
    maps = map_bytes(network) * math.prod(profile.max_shape) / GIB
    step_gb = plan.predicted_memory_gb - process_gb("cpu")
    judging_gb = plan.predicted_window_gb - process_gb("cpu", judging=True)
    return Forecast(
        cells=cells,
        seconds_per_step=times.at(plan.threads).step,
        steps_share=steps_s(config, plan, times, n_train=n_train) / epoch,
        seconds_per_epoch=epoch * (layout.CROWDED if plan.parallel_cells > 1 else 1),
        total_hours=total,
        low_hours=total * times.quiet,
        high_hours=total * max(times.slow, UNSURE),
        load=os.getloadavg()[0],
        ram_gb=held_gb
        + BESIDE_GB
        + METRIC_BYTES * math.prod(profile.max_shape) / GIB
        + (maps if on_gpu else max(step_gb, judging_gb))
        + plan.cache_rate * loaded_gb(network, profile),
        vram_gb=process if on_gpu else 0.0,
        disk_gb=cells * _cell_gb(config, network),
        method=f"{times.steps} training steps, one window and the metrics of one patch were timed "
        "on the first batch; the rest is arithmetic, and early stopping would end sooner",
    )


def epoch_s(
    config: ExperimentConfig,
    plan: ComputePlan,
    profile: DatasetProfile,
    times: Times,
    *,
    n_train: Sequence[int],
) -> float:
    """Seconds of an epoch of the mean cell that trains alone: its steps and its validation."""
    stepping = steps_s(config, plan, times, n_train=n_train)
    return stepping + _validation(config, plan, profile, times)


def steps_s(
    config: ExperimentConfig, plan: ComputePlan, times: Times, *, n_train: Sequence[int]
) -> float:
    """Seconds of the steps of an epoch of the mean cell."""
    times = times.at(plan.threads)
    ahead = times.load / plan.num_workers - times.step if plan.num_workers else times.load
    updates = statistics.fmean(
        judging.iterations(config, n, plan.batch_size, plan.windows, plan.n_val).value
        for n in n_train
    )
    return updates * config.training.accumulation_steps * (times.step + max(0.0, ahead))


def _validation(
    config: ExperimentConfig, plan: ComputePlan, profile: DatasetProfile, times: Times
) -> float:
    """Seconds of judging, spread over the epochs: parts in between, whole volumes at the end."""
    times, training = times.at(plan.threads), config.training
    voxels = times.judge * statistics.fmean(math.prod(s) for s in shapes_of(profile).values())
    part = plan.windows_between / max(plan.windows, 1)
    between = times.window * plan.windows_between / plan.validation_interval
    between += part * voxels / max(plan.validation_interval, config.evaluation.interval_epochs)
    end = judging.REPORTED * times.window * (plan.windows + plan.windows_between)
    return plan.n_val * (between + (end + (1 + part) * voxels) / training.max_epochs)


def _cell_gb(config: ExperimentConfig, network: Network) -> float:
    """Two best checkpoints, the last one and its judged weights, in the cell's folder and its run.

    Beside them, for a while, the last one's predecessor; and a family keeps its best cell's
    weights as a model.
    """
    training = config.training
    weights = networks.parameters(networks.weightless(network)) * 4 / GIB
    last = weights * ((3 if training.optimizer.startswith("adam") else 2) + training.averages)
    sole = 2 + (training.judged_epoch == "last")
    return CELL_GB + 2 * (sole * weights + last) + last + weights / training.folds


def forecast_metrics(cost: Forecast, epochs: int) -> dict[str, float]:
    """What was expected of one cell of this many epochs."""
    return {
        "forecast_seconds_per_epoch": cost.seconds_per_epoch,
        "forecast_seconds": cost.seconds_per_epoch * epochs,
        "forecast_ram_gb": cost.ram_gb,
        "forecast_vram_gb": cost.vram_gb,
        "forecast_disk_gb": cost.disk_gb / max(cost.cells, 1),
    }


def actual_metrics(
    result: CellResult, plan: ComputePlan, folder: Path, *, trained: bool
) -> dict[str, float]:
    """What one cell took, by the names of its forecast; memory only if it trained here and now."""
    kept = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    found = {
        "actual_seconds_per_epoch": result.training_time_seconds / max(result.epochs, 1),
        "actual_seconds": result.training_time_seconds,
        # What a result vouches for lies in its run, too.
        "actual_disk_gb": (kept + sum(result.files.values())) / GIB,
    }
    if not trained:
        return found
    vram = peak_memory.peak_gb("cuda") if plan.device == "cuda" else 0.0
    return found | {"actual_ram_gb": peak_memory.peak_gb("cpu"), "actual_vram_gb": vram}
