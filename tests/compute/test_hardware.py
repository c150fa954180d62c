"""The machine as it can be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from minivess import config
from minivess.compute import hardware
from minivess.compute.hardware import Gpu
from minivess.runtime import cgroups

GIB = 1024**3
GPUS = [
    Gpu(number=n, uuid=f"GPU-{letter}111", model="test", vram_gb=24, free_gb=23, capability=8)
    for n, letter in enumerate("abc")
]


def test_this_machine_has_cores_memory_and_disk(tmp_path: Path) -> None:
    found = hardware.detect(env=config.environment(), disk=tmp_path / "not" / "yet")
    assert found.cores >= 1
    assert 0 < found.ram_available_gb <= found.ram_total_gb
    assert found.disk_free_gb > 0


def test_a_limit_set_by_the_user_caps_the_memory(tmp_path: Path) -> None:
    found = hardware.detect(ram_gb=0.5, env=config.environment(), disk=tmp_path)
    assert (found.ram_total_gb, found.ram_available_gb) == (0.5, 0.5)


@pytest.mark.parametrize(("listed", "numbers"), [
    (None, [0, 1, 2]), ("", []), ("2,0", [2, 0]), ("GPU-b", [1]), ("0,9,1", [0]), ("-1", []),
])  # fmt: skip
def test_cuda_visible_devices_chooses_the_gpus(listed: str | None, numbers: list[int]) -> None:
    assert [gpu.number for gpu in hardware.visible(GPUS, listed)] == numbers


def test_an_empty_cuda_visible_devices_hides_every_gpu() -> None:
    env = config.environment({"CUDA_VISIBLE_DEVICES": ""})
    assert hardware.visible(GPUS, env.cuda_visible_devices) == []


@pytest.mark.parametrize(("files", "cores"), [
    ({"cpu.max": "150000 100000"}, 1.5),
    ({"cpu.max": "max 100000"}, None),
    ({"cpu.cfs_quota_us": "400000", "cpu.cfs_period_us": "100000"}, 4),
    ({"cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "100000"}, None),
    ({}, None),
])  # fmt: skip
def test_a_container_grants_a_share_of_the_cores(
    tmp_path: Path, files: dict[str, str], cores: float | None
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text + "\n")
    assert cgroups.cpu_quota(tmp_path) == cores


def test_a_container_limits_the_memory_and_its_file_cache_is_free(tmp_path: Path) -> None:
    limit = 4 * GIB
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "memory.current").write_text(f"{limit // 2}\n")
    (tmp_path / "memory.stat").write_text(f"anon 1\ninactive_file {limit // 4}\n")
    total, used = cgroups.memory_limit(tmp_path)
    assert total == pytest.approx(limit / GIB)
    assert used == pytest.approx(limit / 4 / GIB)


def test_a_limit_above_the_machine_is_none(tmp_path: Path) -> None:
    (tmp_path / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    (tmp_path / "memory.usage_in_bytes").write_text("1000")
    assert cgroups.memory_limit(tmp_path) is None


def test_a_nested_control_group_is_found_with_those_around_it(tmp_path: Path) -> None:
    (tmp_path / "memory" / "slurm" / "job7").mkdir(parents=True)
    table = tmp_path / "cgroup"
    table.write_text("9:cpuset:/x\n4:memory:/slurm/job7\n")
    found = cgroups.control_groups("memory", table=table, root=tmp_path)
    assert [group.name for group in found] == ["job7", "slurm", "memory"]


def test_kubernetes_is_named_before_ci() -> None:
    env = config.environment({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "CI": "true"})
    assert hardware.place(env) == "kubernetes"
    assert hardware.place(config.environment({"CI": "true"})) == "ci"
