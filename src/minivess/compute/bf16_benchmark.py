"""Measure once per machine whether torch uses the GPU, and how fast bf16 is."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from minivess.compute.memory.cache import cached
from minivess.contracts import Hardware

if TYPE_CHECKING:
    from torch import Tensor, nn

CHANNELS, SIDE, ROUNDS = 32, 32, 3
"""In smaller volumes torch convolves float32 by itself, ten times as slowly as oneDNN does."""


def measured(hardware: Hardware, *, cache: Path) -> Hardware:
    """The same machine with what torch can do on it, timed now or found in `cache`."""
    import torch

    on_gpu = torch.cuda.is_available()
    devices = ["cpu", "cuda"] if hardware.gpu_count and on_gpu else ["cpu"]
    machine = [hardware.cpu_model, hardware.cores, hardware.gpu_model, hardware.gpu_driver]
    gains = {
        device: cached(
            cache,
            {"bf16 gain": device, "machine": machine},
            partial(bf16_gain, device),
            own=[],
        )
        for device in devices
    }
    return hardware.replace(bf16_gains=gains, torch_uses_gpu=on_gpu)


def bf16_gain(device: str) -> float:
    """How many times as fast a step of a small convolution is in bf16 as in float32.

    On a CPU the time that one thread computes is compared: by the clock, whatever else runs
    would decide.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            block = torch.nn.Sequential(
                torch.nn.Conv3d(CHANNELS, CHANNELS, 3, padding=1),
                torch.nn.InstanceNorm3d(CHANNELS),
                torch.nn.LeakyReLU(),
            ).to(device)
            volume = torch.randn(1, CHANNELS, SIDE, SIDE, SIDE, device=device)
        rounds = [
            (_seconds(block, volume, bf16=False), _seconds(block, volume, bf16=True))
            for _ in range(1 + ROUNDS)
        ][1:]  # the first round sets up kernels
    finally:
        torch.set_num_threads(threads)
    plain, half = (min(times) for times in zip(*rounds, strict=True))
    gain: float = round(plain / half, 3)
    return gain


def _seconds(block: nn.Module, volume: Tensor, *, bf16: bool) -> float:
    import torch

    device = volume.device.type
    clock: Callable[[], float] = time.process_time if device == "cpu" else time.perf_counter
    begun = clock()
    with torch.autocast(device, dtype=torch.bfloat16, enabled=bf16):
        result = block(volume)
    result.float().square().mean().backward()
    if device == "cuda":
        torch.cuda.synchronize()
    seconds: float = clock() - begun
    return seconds
