"""Readings of machines, to be replayed: what psutil, the kernel's files and NVML say there.

The numbers are those that such machines report: a GPU never has quite its nominal memory, and a
desktop takes some of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pynvml

from minivess import config
from minivess.compute import hardware
from minivess.contracts import Hardware

GIB = 1024**3


class Card(NamedTuple):
    """A GPU: total and used MiB, compute capability, and the MiB of its slices, if it is cut."""

    model: str
    total: int
    used: int
    capability: int
    slices: tuple[int, ...] = ()
    fails: str | None = None
    number: int = 0


class Machine(NamedTuple):
    """What one machine says."""

    cores: int
    ram_gb: float
    free_gb: float
    swap_gb: float = 0.0
    shm_gb: float | None = None
    driver: str | None = None
    cards: tuple[Card, ...] = ()
    files: Mapping[str, str] = {}
    fails: str | None = None


LAPTOP_CPU = "model name\t: Intel(R) Core(TM) i7-1165G7 @ 2.80GHz\nflags\t\t: fpu sse avx avx512f\n"
V2 = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n",
      "sys/fs/cgroup/memory.max": f"{4 * GIB}\n",
      "sys/fs/cgroup/memory.current": f"{GIB}\n",
      "sys/fs/cgroup/memory.stat": f"anon 1\ninactive_file {GIB // 2}\n",
      "sys/fs/cgroup/memory.swap.max": "0\n", ".dockerenv": ""}  # fmt: skip
V1 = {"proc/self/cgroup": "4:memory:/docker/a1\n2:cpu,cpuacct:/docker/a1\n",
      "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{4 * GIB}\n",
      "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{GIB}\n",
      "sys/fs/cgroup/memory/memory.stat": f"total_inactive_file {GIB // 2}\n",
      "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "150000\n",
      "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n", ".dockerenv": ""}  # fmt: skip
A100 = Card("NVIDIA A100-SXM4-80GB", 81920, 4, 8)

MACHINES = {
    "laptop": Machine(8, 15.4, 10.2, 2.0, 7.7, files={"proc/cpuinfo": LAPTOP_CPU}),
    "6 GB": Machine(12, 31.2, 24.0, 8.0, 15.6, "535.183.01",
                    (Card("NVIDIA GeForce RTX 2060", 6144, 420, 7),)),
    "8 GB": Machine(16, 31.2, 22.5, 8.0, 15.6, "550.120",
                    (Card("NVIDIA GeForce RTX 3070", 8192, 610, 8),)),
    "12 GB": Machine(16, 62.7, 51.0, 8.0, 31.3, "550.120",
                     (Card("NVIDIA GeForce RTX 3060", 12288, 350, 8),)),
    "24 GB": Machine(24, 125.6, 110.0, 2.0, 62.8, "560.35.03",
                     (Card("NVIDIA GeForce RTX 4090", 24564, 560, 8),)),
    "80 GB": Machine(26, 216.2, 208.0, 0.0, 108.0, "535.183.06", (A100,)),
    "4 x 80 GB": Machine(128, 1007.6, 960.0, 0.0, 503.8, "535.183.06", (A100,) * 4),
    "container": Machine(64, 251.5, 180.0, 0.0, 0.0625, files=V2),
    "container, groups v1": Machine(64, 251.5, 180.0, 0.0, 0.0625, files=V1),
    "slices": Machine(64, 503.5, 470.0, 0.0, 251.7, "535.183.06",
                      (A100._replace(slices=(9728, 20096)),)),
    "shared": Machine(32, 251.5, 200.0, 0.0, 125.0, "550.120",
                      (Card("NVIDIA RTX A6000", 49140, 40000, 8),)),
    "driver, no GPU": Machine(8, 31.2, 25.0, 2.0, 15.6, "550.120"),
    "driver dies": Machine(8, 31.2, 25.0, 2.0, 15.6, "550.120", (A100,) * 2,
                           fails="nvmlDeviceGetCount"),
    "one GPU is lost": Machine(8, 31.2, 25.0, 2.0, 15.6, "550.120",
                               (A100._replace(fails="nvmlDeviceGetMemoryInfo"), A100)),
}  # fmt: skip
"""The first eight are those for which plans are promised."""

EIGHT = tuple(MACHINES)[:8]


def replay(name: str, folder: Path, env: Mapping[str, str] | None = None) -> Hardware:
    """The hardware that is detected from recorded readings."""
    machine = MACHINES[name]
    for place, text in machine.files.items():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_text(text)
    readings = hardware.Readings(
        root=folder,
        affinity=machine.cores,
        ram_total=round(machine.ram_gb * GIB),
        ram_available=round(machine.free_gb * GIB),
        swap_total=round(machine.swap_gb * GIB),
        swap_used=0,
        shm=None if machine.shm_gb is None else round(machine.shm_gb * GIB),
        nvml=nvml_of(machine),
    )
    environment = config.environment({"PATH": "/bin", **(env or {})})
    return hardware.detect(env=environment, disk=folder, readings=readings)


def nvml_of(machine: Machine) -> Any:
    """Answers as NVML's Python module does for this machine."""

    def says(name: str, answer: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            card = arguments[0] if arguments and isinstance(arguments[0], Card) else None
            if machine.fails == name or (card is not None and card.fails == name):
                raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
            return answer(*arguments)

        return call

    def start() -> None:
        if machine.driver is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    def part(card: Card, index: int) -> Card:
        if index >= len(card.slices):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return Card(f"MIG-{index}", card.slices[index], 12, card.capability)

    def uuid(card: Card) -> str:
        return card.model if card.model.startswith("MIG-") else f"GPU-{card.number}{card.model}"

    answers: dict[str, Callable[..., Any]] = {
        "nvmlInit": start,
        "nvmlShutdown": lambda: None,
        "nvmlSystemGetDriverVersion": lambda: machine.driver,
        "nvmlDeviceGetCount": lambda: len(machine.cards),
        "nvmlDeviceGetHandleByIndex": lambda index: machine.cards[index]._replace(number=index),
        "nvmlDeviceGetMemoryInfo": memory,
        "nvmlDeviceGetUUID": uuid,
        "nvmlDeviceGetName": lambda card: card.model,
        "nvmlDeviceGetCudaComputeCapability": lambda card: (card.capability, 0),
        "nvmlDeviceGetMigMode": lambda card: (int(bool(card.slices)), 0),
        "nvmlDeviceGetMaxMigDeviceCount": lambda card: 7,
        "nvmlDeviceGetMigDeviceHandleByIndex": part,
    }
    return SimpleNamespace(
        NVMLError=pynvml.NVMLError, **{name: says(name, answer) for name, answer in answers.items()}
    )


def memory(card: Card) -> Any:
    """Bytes, as NVML counts them."""
    unit = 1024**2
    return SimpleNamespace(total=card.total * unit, free=(card.total - card.used) * unit)
