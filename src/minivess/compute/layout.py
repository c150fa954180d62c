"""Lay out a grid on a CPU: cells side by side, and the threads of each.

Decides how soon results are there. A cell whose `training.threads` is `auto` has `auto` in its key.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from minivess.compute.choices import MEMORY, USER, found, given
from minivess.config import ExperimentConfig
from minivess.contracts import ComputePlan, Hardware
from minivess.text import format_duration, several

CROWDED = 1.3
"""How much longer a step takes beside others: 1.14 to 1.44 were measured on two cores."""

START_S = 8.0
"""Seconds of a process until its cell trains: it loads torch and MONAI, and opens the home."""

WORTHWHILE = 1.1
"""How many times as fast more threads must be: they take as many times the processor time."""

MEMORY_SHARE = 0.8
CellSeconds = Callable[[ComputePlan], float]
"""Seconds of one cell that trains alone with this plan."""


def thread_counts(plan: ComputePlan, hardware: Hardware, most: int) -> list[int]:
    """Numbers of threads to time: 1, 2, 4, ... every core; the planned one where it is stated.

    With a cell on each core, one thread does most: two took 1.3 to 2 times its processor time.
    """
    if plan.device != "cpu" or plan.choices["threads"].bound == USER:
        return [plan.threads]
    cores = 1 if most >= hardware.cores else hardware.cores
    return sorted({2**power for power in range(cores.bit_length())} | {cores})


def most_cells(
    config: ExperimentConfig, plan: ComputePlan, hardware: Hardware, *, cells: int, cached_gb: float
) -> tuple[int, str]:
    """How many cells may train side by side on this CPU, and the limit that this meets."""
    training, threads = config.training, plan.choices["threads"]
    if training.parallel_cells != "auto":
        return training.parallel_cells, USER
    if plan.device != "cpu" or training.processes_per_cell > 1 or training.deployment:
        return 1, "the device"
    if hardware.omp_threads is not None:
        return 1, f"OMP_NUM_THREADS={hardware.omp_threads}"
    needed = max(plan.predicted_memory_gb, plan.predicted_window_gb) + cached_gb
    limits = {
        "cells": cells,
        "cores": hardware.cores // (plan.threads if threads.bound == USER else 1),
        MEMORY: int(MEMORY_SHARE * hardware.ram_available_gb / needed),
    }
    bound = min(limits, key=lambda name: limits[name])
    return max(1, limits[bound]), bound


def fastest(
    plan: ComputePlan,
    hardware: Hardware,
    most: tuple[int, str],
    counts: Sequence[int],
    cell_s: CellSeconds,
    *,
    cells: int,
) -> ComputePlan:
    """The plan with the layout that ends the grid soonest, and why."""
    if plan.device != "cpu":
        return plan
    stated = most[1] == USER
    possible = [
        _laid_out(plan, hardware, side_by_side, threads, stated=stated)
        for side_by_side in ([most[0]] if stated else range(1, most[0] + 1))
        for threads in counts
        if len(counts) == 1 or threads * (1 if stated else side_by_side) <= hardware.cores
    ]
    seconds = [grid_s(one, cell_s(one), cells) for one in possible]
    best = min(
        range(len(possible)),
        key=lambda place: seconds[place] * (WORTHWHILE if possible[place].threads > 1 else 1),
    )
    return _explained(possible[best], plan, most, seconds[best], seconds[0])


def grid_s(plan: ComputePlan, cell_s: float, cells: int) -> float:
    """Seconds of so many cells in the layout of a plan, where one alone takes `cell_s`."""
    if plan.parallel_cells == 1:
        return cells * cell_s
    return math.ceil(cells / plan.parallel_cells) * (cell_s * CROWDED + START_S)


def _laid_out(
    plan: ComputePlan, hardware: Hardware, cells: int, threads: int, *, stated: bool
) -> ComputePlan:
    """A stated number of cells has its share of cores and loaders already."""
    workers = plan.num_workers
    if cells > 1 and not stated and plan.choices["num_workers"].bound != USER:
        workers = max(0, min(workers, hardware.cores // cells - threads))
    return plan.replace(parallel_cells=cells, threads=threads, num_workers=workers)


def _explained(
    laid_out: ComputePlan, plan: ComputePlan, most: tuple[int, str], seconds: float, alone: float
) -> ComputePlan:
    """The plan with the reasons of its layout."""
    cells, (limit, bound) = laid_out.parallel_cells, most
    beside = several(cells, "cell") + " side by side"
    why = f"the grid takes {format_duration(seconds)}"
    if cells > 1:
        why += f" with {beside}, {format_duration(alone)} with one after the other"
    at_most = f"{several(limit, 'cell')} at most, by {bound}"
    changed = {
        "parallel_cells": given("parallel_cells", cells)
        if bound == USER
        else found("parallel_cells", cells, why, bound=bound, more=at_most)
    }
    if plan.choices["threads"].bound != USER:
        reason = f"for each of {beside}" if cells > 1 else "the fastest of those that were timed"
        more = "more threads would take as many times the processor time"
        changed["threads"] = found("threads", laid_out.threads, reason, bound="cores", more=more)
    if laid_out.num_workers != plan.num_workers:
        more = f"a loader would need a core beside {beside}"
        changed["num_workers"] = found(
            "num_workers",
            laid_out.num_workers,
            f"{beside} take the cores",
            bound="cores",
            more=more,
        )
    return laid_out.replace(choices=plan.choices | changed)
