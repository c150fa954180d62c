"""Parallel cells: their number, their share of CPU and memory, and locks of GPUs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from minivess.config import Environment, ExperimentConfig, TrainingConfig
from minivess.contracts import Hardware
from minivess.errors import OrchestrationError, PlanError
from minivess.home import lock

WAIT_S = 0.5


def gpus_for(config: ExperimentConfig, hardware: Hardware, env: Environment) -> list[str]:
    """The GPUs that cells may use, as CUDA_VISIBLE_DEVICES names them; empty on a CPU."""
    if "cpu" in (config.training.device, config.compute.profile):
        return []
    listed = (name.strip() for name in (env.cuda_visible_devices or "").split(","))
    return [name for name in listed if name] or [str(i) for i in range(hardware.gpu_count)]


def cells_at_once(hardware: Hardware, training: TrainingConfig) -> int:
    """How many cells train in parallel: `training.parallel_cells`, else as many as GPUs allow."""
    if training.parallel_cells != "auto":
        return training.parallel_cells
    if training.device == "cpu":
        return 1
    return max(1, hardware.gpu_count // training.processes_per_cell)


def share(hardware: Hardware, training: TrainingConfig) -> Hardware:
    """The share of cores and memory that one process of one cell may use."""
    cells = cells_at_once(hardware, training)
    return hardware.replace(
        cores=max(1, hardware.cores // (cells * training.processes_per_cell)),
        ram_available_gb=hardware.ram_available_gb / cells,
    )


def try_lock(
    folder: Path, gpus: Sequence[str], count: int, held: ExitStack, *, what: str
) -> list[str] | None:
    """Lock `count` free GPUs until `held` is closed; None, and no lock, if fewer are free.

    A lock file for each GPU names its holder; a killed holder frees it.

    Raises:
        PlanError: there are fewer than `count`, free or not.
    """
    if count > len(gpus):
        raise PlanError(
            f"A cell of {count} processes needs {count} GPUs, and {len(gpus)} can be seen.",
            remedy=f"training.processes_per_cell={max(1, len(gpus))}",
        )
    mine: list[str] = []
    for name in gpus:
        if len(mine) < count:
            try:
                held.enter_context(lock(folder / f"{name.replace('/', '-')}.lock", what=what))
            except OrchestrationError:
                continue
            mine.append(name)
    if len(mine) == count:
        return mine
    # All or none: two cells that each held half of what they need would wait for ever.
    held.close()
    return None
