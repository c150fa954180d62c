"""Out of memory: whoever says it, and what the next plan is."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest
import torch

from minivess import config
from minivess.compute import out_of_memory, patch, plan
from minivess.config import ExperimentConfig
from minivess.contracts import ComputePlan, DatasetProfile, Hardware, Network
from minivess.errors import DataError, OutOfMemory

SHAPES = [(48, 48, 16)] * 3
MakeWorld = Callable[..., tuple[ExperimentConfig, Network, DatasetProfile, ComputePlan]]


@pytest.fixture
def make_world(
    make_network: Callable[..., Network],
    make_profile: Callable[..., DatasetProfile],
    make_machine: Callable[..., Hardware],
) -> MakeWorld:
    """Settings, network, data and the plan for them."""

    def make(*words: str) -> tuple[ExperimentConfig, Network, DatasetProfile, ComputePlan]:
        settings, network, profile = (
            config.load([], list(words)),
            make_network(),
            make_profile(SHAPES),
        )
        chosen = plan.resolve(settings, network, profile, make_machine(), n_train=3)
        return settings, network, profile, chosen

    return make


def smaller(world: tuple[ExperimentConfig, Network, DatasetProfile, ComputePlan]) -> ComputePlan:
    settings, network, profile, chosen = world
    return out_of_memory.smaller(chosen, settings, network, profile, n_train=3)


def wrapped(cause: Exception) -> RuntimeError:
    error = RuntimeError("applying transform LoadCase")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize("error", [
    MemoryError(),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("std::bad_alloc"),
    RuntimeError("could not create a primitive"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
    wrapped(MemoryError()),
])  # fmt: skip
def test_every_librarys_words_for_it_become_one_error(
    make_world: MakeWorld, error: Exception
) -> None:
    _, network, _, chosen = make_world()
    said = r"plan 1 \(patch 48x48x16, batch"
    with pytest.raises(OutOfMemory, match=said) as raised, out_of_memory.typed(network, chosen):
        raise error
    assert raised.value.__cause__ is error


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("shapes differ"),
        RuntimeError("could not create a primitive descriptor for a convolution"),
        DataError("x", remedy="y"),
    ],
)
def test_other_errors_stay_what_they_are(make_world: MakeWorld, error: Exception) -> None:
    _, network, _, chosen = make_world()
    with pytest.raises(type(error)) as raised, out_of_memory.typed(network, chosen):
        raise error
    assert raised.value is error


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_full_gpu_is_out_of_memory(make_world: MakeWorld) -> None:
    _, network, _, chosen = make_world()
    with pytest.raises(OutOfMemory), out_of_memory.typed(network, chosen):
        torch.empty(2**45, dtype=torch.uint8, device="cuda")
    out_of_memory.release()


def test_the_next_plan_is_one_step_smaller_and_says_why(make_world: MakeWorld) -> None:
    world = make_world()
    before, after = world[3], smaller(world)
    expected = patch.step_down(before.patch_size, before.batch_size, divisor=before.divisor)
    assert (after.patch_size, after.batch_size) == expected
    assert (before.number, after.number) == (1, 2)
    assert after.predicted_memory_gb < before.predicted_memory_gb
    assert "plan 1 ran out of memory" in after.choices["patch_size"].reason
    assert after.choices["patch_size"].value == after.patch_size
    same = set(ComputePlan.model_fields) - {
        "number", "patch_size", "choices", "predicted_memory_gb", "predicted_window_gb",
        "prediction_window", "patch_schedule",
    }  # fmt: skip
    assert all(getattr(before, name) == getattr(after, name) for name in same)


@pytest.mark.parametrize("asked", ["growing", "[[16,16,16],[32,48,16]]"])
def test_a_schedule_of_patches_follows_the_smaller_patch(make_world: MakeWorld, asked: str) -> None:
    before = (world := make_world(f"training.patch_schedule={asked}"))[3]
    after = smaller(world)
    assert before.patch_schedule[-1] == before.patch_size
    assert after.patch_schedule[-1] == after.patch_size != before.patch_size
    assert all(patch.within(one, after.patch_size) for one in after.patch_schedule)


def test_a_given_patch_stays_and_the_batch_halves_over_the_same_patches(
    make_world: MakeWorld,
) -> None:
    settings, network, profile, chosen = make_world("training.patch_size=[48,48,16]")
    patches = chosen.iterations_per_epoch * chosen.batch_size
    full = chosen.replace(batch_size=4, iterations_per_epoch=patches // 4)
    after = smaller((settings, network, profile, full))
    assert (after.patch_size, after.batch_size) == ((48, 48, 16), 2)
    assert after.iterations_per_epoch * after.batch_size == patches
    assert after.choices["iterations_per_epoch"].value == after.iterations_per_epoch


def test_what_the_user_gave_is_not_changed_but_said_with_what_would_fit(
    make_world: MakeWorld,
) -> None:
    world = make_world(
        "training.patch_size=[48,48,16]", "training.batch_size=2",
        "training.prediction_window=[48,48,16]",
    )  # fmt: skip
    with pytest.raises(OutOfMemory, match=r"needs \d+ MB .*is not changed") as raised:
        smaller(world)
    (x, y, z), batch = patch.step_down((48, 48, 16), 2, divisor=world[3].divisor) or ((0, 0, 0), 0)
    assert f"training.patch_size=[{x},{y},{z}]' training.batch_size={batch}" in raised.value.remedy


def test_windows_of_prediction_shrink_where_patch_and_batch_cannot(make_world: MakeWorld) -> None:
    settings, network, profile, chosen = make_world()
    floor = chosen.replace(patch_size=(16, 16, 16), prediction_window=(32, 32, 16), batch_size=1)
    after = smaller((settings, network, profile, floor))
    assert (after.patch_size, after.window) == (floor.patch_size, floor.patch_size)
    assert after.choices["prediction_window"].value == floor.patch_size


def test_at_the_floor_and_after_the_last_restart_the_need_is_named(make_world: MakeWorld) -> None:
    settings, network, profile, chosen = make_world()
    floor = chosen.replace(patch_size=(16, 16, 16), prediction_window=(16, 16, 16), batch_size=1)
    with pytest.raises(OutOfMemory, match=r"needs \d+ MB .*there is no smaller plan"):
        smaller((settings, network, profile, floor))
    last = chosen.replace(number=out_of_memory.RESTARTS + 1)
    with pytest.raises(OutOfMemory, match=r"needs \d+ MB .*5 restarts"):
        smaller((settings, network, profile, last))
