"""What holds for every dataset, model and machine."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from minivess import config, networks
from minivess.compute import plan
from minivess.contracts import ComputePlan, DatasetProfile, Hardware, Shape
from minivess.errors import PlanError

pytestmark = pytest.mark.slow

SIDES = st.integers(16, 600)
SHAPES = st.lists(st.tuples(SIDES, SIDES, st.integers(3, 110)), min_size=2, max_size=6)
# Few levels leave few kinds of strides, and each kind is asked for its memory once.
FILTERS = {"dynunet": [4, 8, 16], "unet": [4, 8]}
GIVEN = st.fixed_dictionaries({
    "vram_base_mb": st.floats(100, 4000), "vram_per_voxel_train_bytes": st.floats(50, 8000),
})  # fmt: skip
MODELS = st.tuples(st.sampled_from(sorted(FILTERS)), st.one_of(st.just({}), GIVEN))
Model = tuple[str, dict[str, float]]
FREE = st.floats(0.9, 64)
SWAP = st.sampled_from([0.0, 8.0])
MACHINES = st.fixed_dictionaries({
    "ram_available_gb": FREE, "swap_total_gb": SWAP, "cores": st.integers(1, 64),
    "bf16_is_fast": st.booleans(), "gpu_count": st.integers(0, 4), "gpu_vram_gb": st.floats(4, 80),
})  # fmt: skip
LAWS = settings(
    max_examples=30, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much],
)  # fmt: skip
Decide = Callable[..., ComputePlan | None]


@pytest.fixture
def decide(
    make_profile: Callable[..., DatasetProfile], make_machine: Callable[..., Hardware]
) -> Decide:
    """The plan for shapes, a model and a machine; None where nothing fits."""

    def make(shapes: list[Shape], model: Model, found: dict[str, Any], *words: str) -> Any:
        profile = make_profile(shapes)
        network = networks.resolve(
            config.model(model[0], {"filters": FILTERS[model[0]], **model[1]}),
            in_channels=1, out_channels=2, min_shape=profile.min_shape,
        )  # fmt: skip
        gpu = {"gpu_model": "test", "gpu_free_gb": found.get("gpu_vram_gb"), "gpu_driver": "1"}
        none = {"gpu_vram_gb": None, "gpu_free_gb": None}
        machine = make_machine(**found, **gpu) if found.get("gpu_count") else make_machine(
            **{**found, **none}
        )  # fmt: skip
        asked = config.load([], ["training.losses=[dice_ce]", *words])
        try:
            return plan.resolve(asked, network, profile, machine, n_train=4)
        except PlanError:
            return None

    return make


@LAWS
@given(shapes=SHAPES, model=MODELS, machine=MACHINES)
def test_a_plan_fits_the_memory_divides_and_lies_within_the_smallest_volume(
    decide: Decide, shapes: list[Shape], model: Model, machine: dict[str, Any]
) -> None:
    found = decide(shapes, model, machine)
    assume(found is not None)
    assert found is not None
    smallest = [min(axis) for axis in zip(*shapes, strict=True)]
    assert all(side <= most for side, most in zip(found.patch_size, smallest, strict=True))
    assert all(side % step == 0 for side, step in zip(found.patch_size, found.divisor, strict=True))
    needed = max(found.predicted_memory_gb, found.predicted_window_gb)
    assert needed <= found.memory_budget_gb + 1e-3
    free = machine["gpu_vram_gb"] if found.device == "cuda" else machine["ram_available_gb"]
    assert found.memory_budget_gb <= 0.8 * free + 1e-3
    assert 0 <= found.cache_rate <= 1
    assert found.num_workers < machine["cores"]
    assert found.padded == {}


@LAWS
@given(shapes=SHAPES, model=MODELS, free=FREE, more=st.floats(1, 4), swap=SWAP)
def test_more_memory_never_gives_less(
    decide: Decide, shapes: list[Shape], model: Model, free: float, more: float, swap: float
) -> None:
    def with_memory(gigabytes: float) -> ComputePlan | None:
        machine = {"ram_available_gb": gigabytes, "swap_total_gb": swap}
        return decide(shapes, model, machine, "compute.profile=gpu_high")

    poor, rich = with_memory(free), with_memory(free * more)
    assume(poor is not None)
    assert poor is not None
    assert rich is not None
    assert rich.memory_budget_gb >= poor.memory_budget_gb
    assert voxels(rich) >= voxels(poor)
    assert rich.cache_rate >= poor.cache_rate
    assert rich.num_workers >= poor.num_workers


@LAWS
@given(shapes=SHAPES, model=MODELS, machine=MACHINES)
def test_the_same_question_has_the_same_answer(
    decide: Decide, shapes: list[Shape], model: Model, machine: dict[str, Any]
) -> None:
    assert decide(shapes, model, machine) == decide(shapes, model, machine)


@LAWS
@given(shapes=SHAPES, model=MODELS, machine=MACHINES)
def test_every_value_names_its_limit_and_the_word_that_gives_it_again(
    decide: Decide, shapes: list[Shape], model: Model, machine: dict[str, Any]
) -> None:
    found = decide(shapes, model, machine)
    assume(found is not None)
    assert found is not None
    assert all(choice.bound for choice in found.choices.values())
    kept = [
        choice.override.strip("'")
        for name, choice in found.choices.items()
        if name in {"patch_size", "batch_size", "cache_rate", "mixed_precision", "num_workers"}
    ]
    again = decide(shapes, model, machine, *kept)
    assert again is not None
    assert (again.patch_size, again.batch_size) == (found.patch_size, found.batch_size)
    assert again.mixed_precision == found.mixed_precision


def voxels(found: ComputePlan) -> int:
    """In one step."""
    return math.prod(found.patch_size) * found.batch_size
