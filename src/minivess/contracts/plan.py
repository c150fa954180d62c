"""The machine, the plan for it and what it will cost."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from minivess.contracts.record import Contract, Shape, Versioned


class Hardware(Contract):
    """The machine as measured; sizes in GiB."""

    environment: Literal["local", "docker", "kubernetes", "cloud", "ci"]
    cpu_model: str
    cores: int = Field(description="usable, container limits respected")
    omp_threads: int | None = Field(default=None, description="OMP_NUM_THREADS, where it is set")
    ram_total_gb: float
    ram_available_gb: float
    swap_total_gb: float
    swap_used_gb: float
    gpu_count: int
    gpu_model: str | None
    gpu_vram_gb: float | None
    gpu_free_gb: float | None
    gpu_driver: str | None
    disk_free_gb: float
    bf16_is_fast: bool
    shm_gb: float | None = Field(
        default=None, description="/dev/shm; loaders are threads and need none"
    )
    gpu_is_slice: bool = Field(default=False, description="a MIG slice of a larger GPU")
    torch_uses_gpu: bool = Field(default=True, description="this torch can compute on the GPU")
    bf16_gains: dict[str, float] = Field(
        default={}, description="device -> time of a float32 step over that of a bf16 one, if timed"
    )


class Choice(Contract):
    """One value of the plan, why it is so, and the word that would override it."""

    value: Any
    reason: str
    override: str
    bound: str = Field(default="", description="the limit that it meets")
    more: str = Field(default="", description="what one more step would need")


class ComputePlan(Versioned):
    """Every automatic choice made, with its reason; stored with a cell before its first step."""

    tier: str
    device: str
    patch_size: Shape
    patch_schedule: tuple[Shape, ...] = Field(
        default=(), description="patches of equally many epochs, patch_size last; none: it alone"
    )
    prediction_window: Shape | None = Field(
        default=None, description="of whole volumes; none in older plans: the patch"
    )
    batch_size: int
    num_workers: int
    cache_rate: float
    mixed_precision: Literal["none", "bf16", "fp16"]
    threads: int
    parallel_cells: int = Field(default=1, description="cells side by side on one CPU")
    iterations_per_epoch: int
    validation_interval: int = Field(default=1, description="epochs between judgements")
    validation_share: float = Field(default=1.0, description="of each volume, after an epoch")
    n_val: float = Field(default=0.0, description="volumes that validate")
    windows: float = Field(default=0.0, description="windows of a volume, in the mean")
    windows_between: float = Field(default=0.0, description="those judged after an epoch")
    divisor: Shape
    predicted_memory_gb: float
    predicted_window_gb: float = Field(default=0.0, description="judging the largest volume")
    memory_budget_gb: float
    padded: dict[str, Shape] = Field(default={}, description="median_pad: case -> voxels added")
    choices: dict[str, Choice] = Field(description="one entry for each automatic value above")
    number: int = Field(default=1, description="plan 2 is one step smaller than plan 1, and so on")
    after_run: str | None = Field(
        default=None, description="the child run that ran out of memory with the plan before"
    )

    def patch_at(self, epoch: int, epochs: int) -> Shape:
        """Return the patch of an epoch, counted from 0, of so many; the last one has patch_size."""
        patches = self.patch_schedule or (self.patch_size,)
        return patches[-1 - (epochs - 1 - epoch) * len(patches) // epochs]

    @property
    def window(self) -> Shape:
        """Size of the windows over a whole volume."""
        return self.prediction_window or self.patch_size


class Forecast(Contract):
    """What the grid will cost on this machine, from a timed probe."""

    cells: int
    seconds_per_step: float
    seconds_per_epoch: float = Field(description="training steps and validation")
    steps_share: float = Field(default=1.0, description="of the time of a cell, that of its steps")
    total_hours: float
    low_hours: float = Field(default=0.0, description="where nothing else computes any more")
    high_hours: float = Field(default=0.0, description="where each step is as slow as the slowest")
    load: float = Field(default=0.0, description="load average of the machine when it was timed")
    ram_gb: float = Field(description="main memory of the process, its cached volumes included")
    vram_gb: float = Field(default=0.0, description="GPU memory; 0 where cells train on a CPU")
    disk_gb: float
    method: str = Field(description="how it was measured, a sentence")
