"""Recorded readings of machines are understood."""

from __future__ import annotations

from pathlib import Path

import pytest

from minivess import config
from minivess.compute import plan
from tests.compute.machines import EIGHT, replay


@pytest.mark.parametrize(("name", "tier"), list(zip(
    EIGHT,
    ("cpu", "gpu_low", "gpu_low", "gpu_high", "dgx_spark", "cloud_single", "cloud_multi", "cpu"),
    strict=True,
)))  # fmt: skip
def test_each_machine_gets_the_tier_of_its_nominal_memory(
    name: str, tier: str, tmp_path: Path
) -> None:
    assert plan.tier(replay(name, tmp_path), config.ComputeConfig())[0].name == tier


@pytest.mark.parametrize("name", ["container", "container, groups v1"])
def test_a_container_has_what_it_was_granted(name: str, tmp_path: Path) -> None:
    found = replay(name, tmp_path)
    assert (found.environment, found.cores, found.ram_total_gb) == ("docker", 2, 4.0)
    assert found.ram_available_gb == pytest.approx(3.5)
    assert found.shm_gb == pytest.approx(0.0625)


def test_a_laptop_without_a_gpu_says_so(tmp_path: Path) -> None:
    found = replay("laptop", tmp_path)
    assert (found.gpu_count, found.gpu_driver, found.bf16_is_fast) == (0, None, False)
    assert found.cpu_model.startswith("Intel(R) Core(TM) i7")


def test_a_gpu_without_bf16_is_known_by_its_capability(tmp_path: Path) -> None:
    assert not replay("6 GB", tmp_path).bf16_is_fast
    assert replay("8 GB", tmp_path).bf16_is_fast


def test_a_process_uses_the_first_slice_of_a_gpu(tmp_path: Path) -> None:
    found = replay("slices", tmp_path)
    assert (found.gpu_count, found.gpu_is_slice) == (1, True)
    assert found.gpu_vram_gb == pytest.approx(9.5)


def test_another_slice_is_chosen_by_its_name(tmp_path: Path) -> None:
    found = replay("slices", tmp_path, {"CUDA_VISIBLE_DEVICES": "MIG-1"})
    assert found.gpu_vram_gb == pytest.approx(19.625)


def test_what_others_use_of_a_gpu_is_not_free(tmp_path: Path) -> None:
    found = replay("shared", tmp_path)
    assert found.gpu_free_gb == pytest.approx(9140 / 1024)
    assert found.gpu_vram_gb == pytest.approx(49140 / 1024)


def test_a_driver_without_a_gpu_trains_on_the_cpu(tmp_path: Path) -> None:
    found = replay("driver, no GPU", tmp_path)
    assert (found.gpu_driver, found.gpu_count) == ("550.120", 0)


def test_a_driver_that_dies_leaves_the_cpu_and_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert replay("driver dies", tmp_path).gpu_count == 0
    assert "does not answer" in caplog.text


def test_a_gpu_that_is_lost_leaves_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert replay("one GPU is lost", tmp_path).gpu_count == 1
    assert "GPU 0 does not answer" in caplog.text
