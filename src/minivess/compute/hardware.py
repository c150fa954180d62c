"""The machine as it can be used now: container limits, memory, GPUs, disk. Imports no torch."""

from __future__ import annotations

import logging
import os
import platform
import shutil
from pathlib import Path
from typing import Literal, NamedTuple

import psutil

from minivess.config import Environment
from minivess.contracts import Hardware

log = logging.getLogger(__name__)

GIB = 1024**3
Place = Literal["local", "docker", "kubernetes", "cloud", "ci"]
CGROUP = Path("/sys/fs/cgroup")
CONTAINER_MARKS = (Path("/.dockerenv"), Path("/run/.containerenv"))
CLOUD_VENDORS = ("amazon", "google", "microsoft", "digitalocean", "openstack", "hetzner", "alibaba")
FAST_BF16 = frozenset({"avx512_bf16", "amx_bf16"})
BF16_COMPUTE_CAPABILITY = 8


class Gpu(NamedTuple):
    """One GPU as the driver reports it."""

    number: int
    uuid: str
    model: str
    vram_gb: float
    free_gb: float
    capability: int


def detect(
    *,
    ram_gb: float | None = None,
    vram_gb: float | None = None,
    env: Environment,
    disk: Path,
) -> Hardware:
    """Measure the machine; `ram_gb` and `vram_gb` cap what may be used, `disk` is written to."""
    total, available = memory()
    swap = psutil.swap_memory()
    driver, every = gpus()
    gpu = visible(every, env.cuda_visible_devices)
    first = gpu[0] if gpu else None
    return Hardware(
        environment=place(env),
        cpu_model=cpu_model(),
        cores=cores(),
        ram_total_gb=min(total, ram_gb or total),
        ram_available_gb=min(available, ram_gb or available),
        swap_total_gb=swap.total / GIB,
        swap_used_gb=swap.used / GIB,
        gpu_count=len(gpu),
        gpu_model=first.model if first else None,
        gpu_vram_gb=_capped(first.vram_gb, vram_gb) if first else None,
        gpu_free_gb=_capped(first.free_gb, vram_gb) if first else None,
        gpu_driver=driver if first else None,
        disk_free_gb=disk_free(disk),
        bf16_is_fast=(first.capability >= BF16_COMPUTE_CAPABILITY if first else cpu_has_bf16()),
    )


def _capped(measured: float, limit: float | None) -> float:
    return measured if limit is None else min(measured, limit)


# --- processor and memory -----------------------------------------------------------------


def cores() -> int:
    """Cores that this process may use: affinity and container quota respected."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quotas = [cpu_quota(group) for group in control_groups("cpu")]
    return max(1, round(min([allowed or 1, *(quota for quota in quotas if quota)])))


def memory() -> tuple[float, float]:
    """(total, available) GiB of this machine or container; swap never counts."""
    machine = psutil.virtual_memory()
    total, available = machine.total / GIB, machine.available / GIB
    for group in control_groups("memory"):
        limit = memory_limit(group)
        if limit is not None:
            total, available = min(total, limit[0]), min(available, limit[0] - limit[1])
    return total, max(available, 0.0)


def control_groups(
    controller: str, *, table: Path = Path("/proc/self/cgroup"), root: Path = CGROUP
) -> list[Path]:
    """Folders of this process's control groups, v2 and v1, inner ones first.

    A container often sees its own group as the root, so the root is looked at too.
    """
    found: list[Path] = []
    for line in _text(table).splitlines():
        _, controllers, inside = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        base = root / controllers if controllers else root
        group = base / inside.strip("/")
        found += [place for place in (group, *group.parents) if place.is_relative_to(base)]
    return [place for place in found if place.is_dir()]


def cpu_quota(group: Path) -> float | None:
    """Cores that a control group grants, None without a limit."""
    words = _text(group / "cpu.max").split() or [
        _text(group / "cpu.cfs_quota_us"),
        _text(group / "cpu.cfs_period_us"),
    ]
    if len(words) != 2 or not all(word.isdigit() for word in words):
        return None
    return int(words[0]) / int(words[1])


def memory_limit(group: Path) -> tuple[float, float] | None:
    """(limit, used) GiB of a control group, None without a limit.

    File cache counts as free: the kernel gives it back before it refuses memory.
    """
    for limit_name, used_name, cached in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        limit, used = _text(group / limit_name), _text(group / used_name)
        if limit.isdigit() and used.isdigit() and int(limit) < psutil.virtual_memory().total:
            reclaimable = _statistic(group / "memory.stat", cached)
            return int(limit) / GIB, max(0, int(used) - reclaimable) / GIB
    return None


def _statistic(file: Path, name: str) -> int:
    pairs = (line.split() for line in _text(file).splitlines())
    return next((int(pair[1]) for pair in pairs if pair[:1] == [name]), 0)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def cpu_model() -> str:
    """The processor's name, or `unknown`."""
    lines = _text(Path("/proc/cpuinfo")).splitlines()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or "unknown"


def cpu_flags() -> frozenset[str]:
    """Instruction sets that the kernel lists; empty where there is no /proc/cpuinfo."""
    for line in _text(Path("/proc/cpuinfo")).splitlines():
        if line.startswith("flags"):
            return frozenset(line.partition(":")[2].split())
    return frozenset()


def cpu_has_bf16() -> bool:
    """Whether the processor multiplies bf16 itself."""
    return bool(FAST_BF16 & cpu_flags())


def disk_free(folder: Path) -> float:
    """GiB free where `folder` is, or will be."""
    folder = folder.expanduser().resolve()
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    return shutil.disk_usage(existing).free / GIB


# --- GPUs ---------------------------------------------------------------------------------


def gpus() -> tuple[str | None, list[Gpu]]:
    """(driver version, every GPU of the machine); nothing where there is no driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None, []
    try:
        driver = str(pynvml.nvmlSystemGetDriverVersion())
        return driver, [_gpu(index) for index in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError as error:
        log.warning("the GPU driver does not answer (%s); training on the CPU", error)
        return None, []
    finally:
        pynvml.nvmlShutdown()


def _gpu(index: int) -> Gpu:
    import pynvml

    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    use = pynvml.nvmlDeviceGetMemoryInfo(handle)
    return Gpu(
        number=index,
        uuid=str(pynvml.nvmlDeviceGetUUID(handle)),
        model=str(pynvml.nvmlDeviceGetName(handle)),
        vram_gb=use.total / GIB,
        free_gb=use.free / GIB,
        capability=int(pynvml.nvmlDeviceGetCudaComputeCapability(handle)[0]),
    )


def visible(every: list[Gpu], listed: str | None) -> list[Gpu]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves, in its order; a wrong entry ends the list."""
    if listed is None:
        return every
    found: list[Gpu] = []
    for entry in (word.strip() for word in listed.split(",")):
        match = [gpu for gpu in every if entry in {str(gpu.number)} or _names(entry, gpu.uuid)]
        if not match:
            break
        found.append(match[0])
    return found


def _names(entry: str, uuid: str) -> bool:
    return entry.startswith("GPU-") and uuid.startswith(entry)


# --- where we are -------------------------------------------------------------------------


def place(env: Environment) -> Place:
    """local, docker, kubernetes, cloud or ci; the most specific that can be seen."""
    if env.kubernetes:
        return "kubernetes"
    if env.ci:
        return "ci"
    if any(mark.exists() for mark in CONTAINER_MARKS):
        return "docker"
    vendor = _text(Path("/sys/class/dmi/id/sys_vendor")).lower()
    return "cloud" if any(name in vendor for name in CLOUD_VENDORS) else "local"
