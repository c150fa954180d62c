"""Measure the peak memory of this process, to compare it with the forecast."""

from __future__ import annotations

import resource
import sys
from contextlib import suppress
from pathlib import Path

import psutil

from minivess.runtime.cgroups import GIB


def reset_peak(device: str) -> None:
    """Begin a new peak, where the system can: without that, earlier work counts too."""
    if device == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):  # not Linux, or a kernel that does not grant it
        Path("/proc/self/clear_refs").write_text("5")


def held_gb() -> float:
    """GiB of resident memory that this process holds now: libraries, mostly."""
    return psutil.Process().memory_info().rss / GIB


def peak_gb(device: str) -> float:
    """GiB at the worst moment since `reset_peak`: the GPU's, else resident memory."""
    if device == "cuda":
        import torch

        return float(torch.cuda.max_memory_reserved()) / GIB
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / GIB
    unit = 1024 if sys.platform == "linux" else 1
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB
