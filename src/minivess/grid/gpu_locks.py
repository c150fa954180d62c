"""Cells side by side: how many, what each may use of the machine, and which GPUs are its own."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from minivess.config import Environment, ExperimentConfig, TrainingConfig
from minivess.contracts import Hardware
from minivess.errors import OrchestrationError, PlanError
from minivess.home import lock

WAIT_S = 0.5


def gpus_for(config: ExperimentConfig, hardware: Hardware, env: Environment) -> list[str]:
    """The GPUs that cells may use, as CUDA_VISIBLE_DEVICES calls them; none where they use none."""
    if "cpu" in (config.training.device, config.compute.profile):
        return []
    listed = (name.strip() for name in (env.cuda_visible_devices or "").split(","))
    return [name for name in listed if name] or [str(i) for i in range(hardware.gpu_count)]


def cells_at_once(hardware: Hardware, training: TrainingConfig) -> int:
    """How many cells train side by side: as asked, else as many as there are GPUs for them."""
    if training.parallel_cells != "auto":
        return training.parallel_cells
    if training.device == "cpu":
        return 1
    return max(1, hardware.gpu_count // training.processes_per_cell)


def share(hardware: Hardware, training: TrainingConfig) -> Hardware:
    """What one process of one cell may use: its part of the cores and of the memory."""
    cells = cells_at_once(hardware, training)
    return hardware.replace(
        cores=max(1, hardware.cores // (cells * training.processes_per_cell)),
        ram_available_gb=hardware.ram_available_gb / cells,
    )


@contextmanager
def locked(folder: Path, gpus: Sequence[str], count: int, *, what: str) -> Iterator[list[str]]:
    """Wait until `count` of these GPUs are free, and keep them; no other cell gets them meanwhile.

    Raises:
        PlanError: there are fewer than `count`.
    """
    with ExitStack() as held:
        while (mine := try_lock(folder, gpus, count, held, what=what)) is None:
            time.sleep(WAIT_S)
        yield mine


def try_lock(
    folder: Path, gpus: Sequence[str], count: int, held: ExitStack, *, what: str
) -> list[str] | None:
    """Keep `count` free GPUs until `held` is closed; None where fewer are free.

    A lock file for each GPU says who has it; a killed holder frees it.

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
    # All or none: of two cells that hold half of what they need, neither would go on.
    held.close()
    return None
