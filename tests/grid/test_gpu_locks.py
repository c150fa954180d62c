"""No GPU is booked twice, and what runs side by side shares the machine."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from minivess.config import Environment, ExperimentConfig, TrainingConfig
from minivess.contracts import Hardware
from minivess.errors import PlanError
from minivess.grid import gpu_locks


def machine(gpus: int) -> Hardware:
    return Hardware(
        environment="local", cpu_model="x", cores=16, ram_total_gb=64, ram_available_gb=64,
        swap_total_gb=0, swap_used_gb=0, gpu_count=gpus, gpu_model=None, gpu_vram_gb=None,
        gpu_free_gb=None, gpu_driver=None, disk_free_gb=100, bf16_is_fast=False,
    )  # fmt: skip


def test_two_cells_never_have_the_same_gpu(tmp_path: Path) -> None:
    with ExitStack() as one, ExitStack() as two, ExitStack() as three:
        assert gpu_locks.try_lock(tmp_path, ["0", "1"], 1, one, what="a") == ["0"]
        assert gpu_locks.try_lock(tmp_path, ["0", "1"], 1, two, what="b") == ["1"]
        assert gpu_locks.try_lock(tmp_path, ["0", "1"], 1, three, what="c") is None
        one.close()
        assert gpu_locks.try_lock(tmp_path, ["0", "1"], 1, three, what="c") == ["0"]


def test_a_cell_that_needs_two_holds_none_while_it_waits(tmp_path: Path) -> None:
    with ExitStack() as one, ExitStack() as pair, ExitStack() as two:
        gpu_locks.try_lock(tmp_path, ["0", "1"], 1, one, what="a")
        assert gpu_locks.try_lock(tmp_path, ["0", "1"], 2, pair, what="b") is None
        assert gpu_locks.try_lock(tmp_path, ["0", "1"], 1, two, what="c") == ["1"]


def test_more_gpus_than_there_are_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"training.processes_per_cell=1"):
        gpu_locks.try_lock(tmp_path, ["0"], 2, ExitStack(), what="a")


def test_gpus_are_named_as_the_user_lists_them() -> None:
    found = gpu_locks.gpus_for(
        ExperimentConfig(), machine(2), Environment(cuda_visible_devices="GPU-ab, 3")
    )
    assert found == ["GPU-ab", "3"]
    assert gpu_locks.gpus_for(ExperimentConfig(), machine(2), Environment()) == ["0", "1"]
    on_cpu = ExperimentConfig(training=TrainingConfig(device="cpu"))
    assert gpu_locks.gpus_for(on_cpu, machine(2), Environment()) == []


@pytest.mark.parametrize(("gpus", "settings", "expected"), [
    (0, {}, 1), (1, {}, 1), (4, {}, 4), (4, {"processes_per_cell": 2}, 2),
    (4, {"device": "cpu"}, 1), (0, {"parallel_cells": 3}, 3),
])  # fmt: skip
def test_as_many_cells_as_gpus_unless_told(gpus: int, settings: dict, expected: int) -> None:
    assert gpu_locks.cells_at_once(machine(gpus), TrainingConfig(**settings)) == expected


def test_cells_side_by_side_share_cores_and_memory() -> None:
    shared = gpu_locks.share(machine(0), TrainingConfig(parallel_cells=2, processes_per_cell=4))
    assert (shared.cores, shared.ram_available_gb) == (2, 32)
    alone = machine(0)
    assert gpu_locks.share(alone, TrainingConfig()) == alone
