"""Machines, datasets and networks to plan for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest
import torch

from minivess import config, networks
from minivess.contracts import DatasetProfile, Hardware, Network, Shape, VolumeStats


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def make_machine() -> Callable[..., Hardware]:
    """A CPU machine of a laptop's size, with changes."""

    def make(**changes: object) -> Hardware:
        laptop = {
            "environment": "local", "cpu_model": "test", "cores": 8, "ram_total_gb": 32.0,
            "ram_available_gb": 24.0, "swap_total_gb": 8.0, "swap_used_gb": 0.0, "gpu_count": 0,
            "gpu_model": None, "gpu_vram_gb": None, "gpu_free_gb": None, "gpu_driver": None,
            "disk_free_gb": 100.0, "bf16_is_fast": False,
        }  # fmt: skip
        return Hardware.model_validate({**laptop, **changes})

    return make


@pytest.fixture
def make_profile() -> Callable[..., DatasetProfile]:
    """A dataset known by the shapes of its volumes."""

    def make(
        shapes: Sequence[Shape], spacing: tuple[float, float, float] = (1, 1, 1)
    ) -> DatasetProfile:
        volumes = tuple(stats(f"v{i}", shape, spacing) for i, shape in enumerate(shapes))
        axes = [sorted(axis) for axis in zip(*shapes, strict=True)]
        return DatasetProfile(
            dataset="test", dataset_path="/test", dataset_hash="0.dir", curated="dvc/test",
            dvc_file="dvc/test.dvc", remote=None, n_volumes=len(volumes),
            min_shape=tuple(axis[0] for axis in axes), max_shape=tuple(axis[-1] for axis in axes),
            median_shape=tuple(axis[len(axis) // 2] for axis in axes),
            spacing_range=(spacing, spacing), is_anisotropic=False, total_size_gb=0.1,
            per_volume_mean_gb=0.01, outliers=(), warnings=(), classes=(0, 1), label_map={},
            volumes=volumes, findings=(),
        )  # fmt: skip

    return make


def stats(case: str, shape: Shape, spacing: tuple[float, float, float]) -> VolumeStats:
    """The numbers of one volume; only its shape and spacing matter here."""
    return VolumeStats(
        case=case, filename=f"images/{case}.nii.gz", label_filename=f"labels/{case}.nii.gz",
        group=None, shape=shape, voxel_spacing=spacing, unit="micron", dtype="uint16",
        intensity_min=0, intensity_max=1, intensity_mean=0, intensity_std=1, percentiles={},
        foreground_ratio=0.1, label_values=(0, 1), components=1, size_bytes=1, content_hash=case,
    )  # fmt: skip


@pytest.fixture
def make_network() -> Callable[..., Network]:
    """A small DynUNet resolved for a smallest volume."""

    def make(min_shape: Shape = (48, 48, 16), **changes: object) -> Network:
        model = config.model("dynunet", {"filters": [4, 8, 16], **changes})
        return networks.resolve(model, in_channels=1, out_channels=2, min_shape=min_shape)

    return make
