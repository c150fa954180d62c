"""Measure the usable machine: container limits, memory, GPUs, disk. Imports no torch."""

from __future__ import annotations

import logging
import os
import platform
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

import psutil

from minivess.config import Environment
from minivess.contracts import Hardware
from minivess.runtime.cgroups import CGROUP, GIB, control_groups, cpu_quota, memory_limit, text_of

log = logging.getLogger(__name__)

Place = Literal["local", "docker", "kubernetes", "cloud", "ci"]
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
    is_slice: bool = False


class Readings(NamedTuple):
    """Raw readings of the machine; tests replay recorded ones. Sizes in bytes."""

    root: Path
    """Below it lie proc, sys and the marks of containers."""
    affinity: int
    ram_total: int
    ram_available: int
    swap_total: int
    swap_used: int
    shm: int | None
    nvml: Any
    """The module pynvml, or what answers like it."""


def detect(
    *,
    ram_gb: float | None = None,
    vram_gb: float | None = None,
    env: Environment,
    disk: Path,
    readings: Readings | None = None,
) -> Hardware:
    """Measure the machine; `ram_gb` and `vram_gb` cap what may be used, `disk` is written to."""
    readings = readings or read()
    total, available = memory(readings)
    driver, every = gpus(readings.nvml)
    gpu = visible(every, env.cuda_visible_devices)
    first = gpu[0] if gpu else None
    return Hardware(
        environment=place(env, readings.root),
        cpu_model=cpu_model(readings.root),
        cores=cores(readings),
        omp_threads=env.omp_num_threads,
        ram_total_gb=min(total, ram_gb or total),
        ram_available_gb=min(available, ram_gb or available),
        swap_total_gb=readings.swap_total / GIB,
        swap_used_gb=readings.swap_used / GIB,
        gpu_count=len(gpu),
        gpu_model=first.model if first else None,
        gpu_vram_gb=_capped(first.vram_gb, vram_gb) if first else None,
        gpu_free_gb=_capped(first.free_gb, vram_gb) if first else None,
        gpu_driver=driver,
        disk_free_gb=disk_free(disk),
        bf16_is_fast=(
            first.capability >= BF16_COMPUTE_CAPABILITY if first else cpu_has_bf16(readings.root)
        ),
        shm_gb=None if readings.shm is None else readings.shm / GIB,
        gpu_is_slice=first.is_slice if first else False,
    )


def read() -> Readings:
    """This machine."""
    import pynvml

    ram, swap, shm = psutil.virtual_memory(), psutil.swap_memory(), Path("/dev/shm")
    return Readings(
        root=Path("/"),
        affinity=len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count() or 1,
        ram_total=ram.total,
        ram_available=ram.available,
        swap_total=swap.total,
        swap_used=swap.used,
        shm=shutil.disk_usage(shm).total if shm.is_dir() else None,
        nvml=pynvml,
    )


def _capped(measured: float, limit: float | None) -> float:
    return measured if limit is None else min(measured, limit)


# --- processor and memory -----------------------------------------------------------------


def cores(readings: Readings) -> int:
    """Cores that this process may use: affinity and container quota respected."""
    quotas = [cpu_quota(group) for group in _groups("cpu", readings.root)]
    return max(1, round(min([readings.affinity, *(quota for quota in quotas if quota)])))


def memory(readings: Readings | None = None) -> tuple[float, float]:
    """(total, available) GiB of this machine or container; swap never counts."""
    readings = readings or read()
    total, available = readings.ram_total / GIB, readings.ram_available / GIB
    for group in _groups("memory", readings.root):
        limit = memory_limit(group)
        if limit is not None and limit[0] < total:
            total, available = min(total, limit[0]), min(available, limit[0] - limit[1])
    return total, max(available, 0.0)


def _groups(controller: str, root: Path) -> list[Path]:
    return control_groups(
        controller, table=root / "proc/self/cgroup", root=root / CGROUP.relative_to("/")
    )


def cpu_model(root: Path = Path("/")) -> str:
    """The processor's name, or `unknown`."""
    other = platform.processor()
    return (
        _cpuinfo(root, "model name") or (other if other != platform.machine() else "") or "unknown"
    )


def cpu_has_bf16(root: Path = Path("/")) -> bool:
    """Whether the processor multiplies bf16 itself."""
    return bool(FAST_BF16 & set(_cpuinfo(root, "flags").split()))


def _cpuinfo(root: Path, name: str) -> str:
    """The first value of a name in /proc/cpuinfo; empty where there is none."""
    lines = (line.partition(":") for line in text_of(root / "proc/cpuinfo").splitlines())
    return next((value.strip() for key, _, value in lines if key.strip() == name), "")


def disk_free(folder: Path) -> float:
    """GiB free where `folder` is, or will be."""
    folder = folder.expanduser().resolve()
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    return shutil.disk_usage(existing).free / GIB


# --- GPUs ---------------------------------------------------------------------------------


def gpus(nvml: Any) -> tuple[str | None, list[Gpu]]:
    """(driver version, every GPU or slice that answers); nothing where there is no driver."""
    driver: str | None = None
    found: list[Gpu] = []
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None, []
    try:
        driver = str(nvml.nvmlSystemGetDriverVersion())
        for index in range(nvml.nvmlDeviceGetCount()):
            found += _answering(nvml, index)
    except nvml.NVMLError as error:
        log.warning("the GPU driver does not answer (%s); %d GPUs were read", error, len(found))
    finally:
        with suppress(nvml.NVMLError):
            nvml.nvmlShutdown()
    return driver, found


def _answering(nvml: Any, index: int) -> list[Gpu]:
    """One GPU, or the slices that it is cut into; nothing if it fell off the bus."""
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        whole = _gpu(nvml, handle, index)
        slices = _slices(nvml, handle, whole)
    except nvml.NVMLError as error:
        log.warning("GPU %d does not answer (%s) and is left out", index, error)
        return []
    return [whole] if slices is None else slices


def _gpu(nvml: Any, handle: Any, index: int) -> Gpu:
    use = nvml.nvmlDeviceGetMemoryInfo(handle)
    try:
        capability = int(nvml.nvmlDeviceGetCudaComputeCapability(handle)[0])
    except nvml.NVMLError:
        capability = 0
    return Gpu(
        number=index,
        uuid=str(nvml.nvmlDeviceGetUUID(handle)),
        model=str(nvml.nvmlDeviceGetName(handle)),
        vram_gb=use.total / GIB,
        free_gb=use.free / GIB,
        capability=capability,
    )


def _slices(nvml: Any, handle: Any, whole: Gpu) -> list[Gpu] | None:
    """The MIG slices of a GPU, None where it is not cut; CUDA sees slices, not the whole."""
    try:
        if not nvml.nvmlDeviceGetMigMode(handle)[0]:
            return None
        most = nvml.nvmlDeviceGetMaxMigDeviceCount(handle)
    except nvml.NVMLError:
        return None
    found = []
    for index in range(most):
        with suppress(nvml.NVMLError):  # an empty place
            part = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
            use = nvml.nvmlDeviceGetMemoryInfo(part)
            found.append(
                whole._replace(
                    uuid=str(nvml.nvmlDeviceGetUUID(part)),
                    model=f"{whole.model} (slice)",
                    vram_gb=use.total / GIB,
                    free_gb=use.free / GIB,
                    is_slice=True,
                )
            )
    return found


def visible(every: list[Gpu], listed: str | None) -> list[Gpu]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves, in its order; a wrong entry ends the list."""
    if listed is None:
        # A process can use one slice only, and CUDA takes the first.
        return every[:1] if every and every[0].is_slice else every
    found: list[Gpu] = []
    for entry in (word.strip() for word in listed.split(",")):
        match = [gpu for gpu in every if entry in {str(gpu.number)} or _names(entry, gpu.uuid)]
        if not match:
            break
        found.append(match[0])
    return found


def _names(entry: str, uuid: str) -> bool:
    return entry.startswith(("GPU-", "MIG-")) and uuid.startswith(entry)


# --- where we are -------------------------------------------------------------------------


def place(env: Environment, root: Path = Path("/")) -> Place:
    """local, docker, kubernetes, cloud or ci; the most specific that can be seen."""
    if env.kubernetes:
        return "kubernetes"
    if env.ci:
        return "ci"
    if any((root / mark.relative_to("/")).exists() for mark in CONTAINER_MARKS):
        return "docker"
    vendor = text_of(root / "sys/class/dmi/id/sys_vendor").lower()
    return "cloud" if any(name in vendor for name in CLOUD_VENDORS) else "local"
