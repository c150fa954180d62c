"""Recorded readings of machines are understood."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minivess import config
from minivess.compute import bf16_benchmark, hardware, plan
from minivess.compute.memory import cache
from minivess.contracts import ComputePlan, DatasetProfile, Hardware, Network
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


@pytest.mark.parametrize(("listed", "count"), [
    ("1,3", 2), ("GPU-2NVIDIA", 1), ("", 0), ("-1", 0), ("0,7,1", 1),
])  # fmt: skip
def test_gpus_that_are_hidden_are_not_counted(tmp_path: Path, listed: str, count: int) -> None:
    found = replay("4 x 80 GB", tmp_path, {"CUDA_VISIBLE_DEVICES": listed})
    assert found.gpu_count == count
    assert (found.gpu_vram_gb is None) == (count == 0)
    single = {0: "cpu", 1: "cloud_single", 2: "cloud_multi"}[count]
    assert plan.tier(found, config.ComputeConfig())[0].name == single


def test_swap_is_told_and_never_counted_as_memory(tmp_path: Path) -> None:
    found = replay("laptop", tmp_path)
    assert found.swap_total_gb == pytest.approx(2)
    assert found.ram_available_gb == pytest.approx(10.2)


def test_a_gpu_that_this_torch_cannot_use_leaves_the_cpu(
    make_scene: Callable[..., ComputePlan], caplog: pytest.LogCaptureFixture
) -> None:
    chosen = make_scene(gpu_count=1, gpu_vram_gb=24, gpu_free_gb=24, torch_uses_gpu=False)
    assert (chosen.device, chosen.tier) == ("cpu", "dgx_spark")
    assert "this build of torch cannot use it" in caplog.text


@pytest.fixture
def make_scene(
    make_machine: Callable[..., Hardware],
    make_network: Callable[..., Network],
    make_profile: Callable[..., DatasetProfile],
) -> Callable[..., ComputePlan]:
    """A plan for a machine."""

    def make(**machine: Any) -> ComputePlan:
        return plan.resolve(
            config.load([], ["training.losses=[dice_ce]"]),
            make_network(), make_profile([(48, 48, 16)] * 3), make_machine(**machine), n_train=2,
        )  # fmt: skip

    return make


@pytest.mark.parametrize(("gains", "precision"), [
    ({"cpu": 1.8}, "bf16"), ({"cpu": 0.4}, "none"), ({}, "none"),
])  # fmt: skip
def test_bf16_is_taken_where_it_was_timed_to_be_fast(
    make_scene: Callable[..., ComputePlan], gains: dict[str, float], precision: str
) -> None:
    assert make_scene(bf16_gains=gains).mixed_precision == precision


def test_a_gpu_computes_bf16_where_that_is_fast_and_fp16_elsewhere(
    make_scene: Callable[..., ComputePlan],
) -> None:
    card = {"gpu_count": 1, "gpu_vram_gb": 24.0, "gpu_free_gb": 24.0}
    assert make_scene(**card, bf16_gains={"cuda": 2.5}).mixed_precision == "bf16"
    assert make_scene(**card, bf16_gains={"cuda": 0.9}).mixed_precision == "fp16"


def test_the_speed_of_bf16_is_timed_once_for_each_machine(
    make_machine: Callable[..., Hardware], tmp_path: Path
) -> None:
    cache.KNOWN.clear()
    first = bf16_benchmark.measured(make_machine(), cache=tmp_path)
    cache.KNOWN.clear()
    assert bf16_benchmark.measured(make_machine(), cache=tmp_path) == first
    assert first.bf16_gains["cpu"] > 0
    assert len(list(tmp_path.glob("*.json"))) == 1
    bf16_benchmark.measured(make_machine(cpu_model="another"), cache=tmp_path)
    assert len(list(tmp_path.glob("*.json"))) == 2


def test_the_processor_is_never_only_an_architecture(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(platform, "processor", platform.machine)
    assert hardware.cpu_model(tmp_path) == "unknown"
