"""Machines, datasets and networks to plan for."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from minivess import config, networks
from minivess.contracts import DatasetProfile, Hardware, Network, Shape
from tests.compute.shapes import profile_of


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

    return profile_of


@pytest.fixture
def make_network() -> Callable[..., Network]:
    """A small DynUNet resolved for a smallest volume."""

    def make(min_shape: Shape = (48, 48, 16), **changes: object) -> Network:
        model = config.model("dynunet", {"filters": [4, 8, 16], **changes})
        return networks.resolve(model, in_channels=1, out_channels=2, min_shape=min_shape)

    return make
