"""What is judged after epochs, and how long these are, so that time goes into steps."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from minivess import config
from minivess.compute import judging, plan
from minivess.contracts import ComputePlan, DatasetProfile, Hardware, Network, Shape

SMALL: list[Shape] = [(48, 48, 16)] * 12
STACKS: list[Shape] = [(512, 512, 26)] * 12


@pytest.fixture
def planned(
    make_network: Callable[..., Network],
    make_profile: Callable[..., DatasetProfile],
    make_machine: Callable[..., Hardware],
) -> Callable[..., ComputePlan]:
    """The plan of two folds, with words as a user types them."""

    def make(shapes: list[Shape], *words: str) -> ComputePlan:
        profile = make_profile(shapes)
        usual = ("data.root=/volumes", "training.folds=2", "training.max_epochs=20")
        settings = config.load([], [*usual, *words])
        network = make_network(profile.min_shape)
        n_train = len(shapes) // 2
        return plan.resolve(settings, network, profile, make_machine(), n_train=n_train)

    return make


def test_small_volumes_are_judged_whole_after_each_epoch(
    planned: Callable[..., ComputePlan],
) -> None:
    found = planned(SMALL, "training.samples_per_volume=16")
    assert (found.validation_interval, found.validation_share) == (1, 1.0)
    assert planned(SMALL).iterations_per_epoch == 6 * 4


@pytest.mark.parametrize("count", [4, 12, 400])
def test_epochs_of_large_volumes_are_long_enough_for_judging_them_all_in_the_end(
    planned: Callable[..., ComputePlan], count: int
) -> None:
    found = planned(STACKS[:1] * count)
    steps = 20 * found.iterations_per_epoch * judging.STEP
    whole = judging.REPORTED * found.windows * count / 2
    between = 20 / found.validation_interval * found.windows_between * count / 2
    assert steps / (steps + whole + between) > 0.9
    assert found.choices["iterations_per_epoch"].bound == "time goes into steps"
    assert found.validation_share < 0.1


@pytest.mark.parametrize(
    "word", ["training.judged_epoch=best", "training.early_stopping_patience=5"]
)
def test_whole_volumes_are_judged_less_often_where_figures_decide(
    planned: Callable[..., ComputePlan], word: str
) -> None:
    found = planned(STACKS, word)
    assert (found.validation_share, found.validation_interval) == (1.0, 2)
    assert "the figures decide" in found.choices["validation_interval"].reason


def test_what_is_stated_is_used(planned: Callable[..., ComputePlan]) -> None:
    words = ("training.validation_interval=7", "training.validation_share=0.5")
    found = planned(STACKS, *words, "training.samples_per_volume=4")
    assert (found.validation_interval, found.validation_share) == (7, 0.5)
    assert found.iterations_per_epoch == 6 * 4
    assert found.choices["validation_share"].override == words[1]


def test_a_part_holds_a_patch_and_never_more_than_its_volume() -> None:
    assert judging.part((512, 512, 26), (64, 64, 16), 0.001) == (64, 64, 16)
    assert judging.part((512, 512, 26), (64, 64, 16), 1.0) == (512, 512, 26)
    assert judging.part((30, 40, 5), (64, 64, 16), 0.5) == (30, 40, 5)
