"""What holds for every dataset, model and machine."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minivess import config, networks
from minivess.compute import plan
from minivess.contracts import ComputePlan, DatasetProfile, Hardware, Shape
from minivess.errors import PlanError

SIDES = st.integers(16, 160)
SHAPES = st.lists(st.tuples(SIDES, SIDES, st.integers(3, 60)), min_size=2, max_size=5)
MODELS = st.sampled_from(["dynunet", "unet", "segresnet"])
MEMORY = st.floats(0.6, 64)
LAWS = settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
FILTERS = {"filters": [8, 16, 32]}
Decide = Callable[..., ComputePlan]


@pytest.fixture
def decide(
    make_profile: Callable[..., DatasetProfile], make_machine: Callable[..., Hardware]
) -> Decide:
    """The plan for shapes, a model, GiB of free memory and a tier; None where nothing fits."""

    def make(shapes: list[Shape], model: str, memory_gb: float, *words: str) -> Any:
        profile = make_profile(shapes)
        network = networks.resolve(
            config.model(model, FILTERS), in_channels=1, out_channels=2,
            min_shape=profile.min_shape,
        )  # fmt: skip
        asked = config.load([], ["training.losses=[dice_ce]", *words])
        machine = make_machine(ram_available_gb=memory_gb)
        try:
            return plan.resolve(asked, network, profile, machine, n_train=4)
        except PlanError:
            return None

    return make


@LAWS
@given(shapes=SHAPES, model=MODELS, memory_gb=MEMORY, tier=st.sampled_from(["cpu", "gpu_high"]))
def test_a_plan_fits_the_memory_divides_and_lies_within_the_smallest_volume(
    decide: Decide, shapes: list[Shape], model: str, memory_gb: float, tier: str
) -> None:
    found = decide(shapes, model, memory_gb, f"compute.profile={tier}")
    if found is None:
        return
    smallest = [min(axis) for axis in zip(*shapes, strict=True)]
    assert all(side <= most for side, most in zip(found.patch_size, smallest, strict=True))
    assert all(side % step == 0 for side, step in zip(found.patch_size, found.divisor, strict=True))
    assert max(found.predicted_memory_gb, found.predicted_window_gb) <= found.memory_budget_gb
    assert found.memory_budget_gb <= 0.8 * memory_gb + 1e-3
    assert found.padded == {}


@LAWS
@given(shapes=SHAPES, model=MODELS, memory_gb=MEMORY, more=st.floats(1, 4))
def test_more_memory_never_gives_less(
    decide: Decide, shapes: list[Shape], model: str, memory_gb: float, more: float
) -> None:
    words = ("compute.profile=gpu_high", "training.cache_rate=0")
    poor = decide(shapes, model, memory_gb, *words)
    rich = decide(shapes, model, memory_gb * more, *words)
    if poor is not None:
        assert rich is not None
        assert voxels(rich) >= voxels(poor)


@LAWS
@given(shapes=SHAPES, model=MODELS, memory_gb=MEMORY)
def test_the_same_question_has_the_same_answer(
    decide: Decide, shapes: list[Shape], model: str, memory_gb: float
) -> None:
    assert decide(shapes, model, memory_gb) == decide(shapes, model, memory_gb)


def voxels(found: ComputePlan) -> int:
    """In one step."""
    return math.prod(found.patch_size) * found.batch_size
