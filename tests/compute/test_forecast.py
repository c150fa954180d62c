"""What the grid will cost."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from minivess import config
from minivess.compute import forecast, page, plan
from minivess.contracts import ComputePlan, DatasetProfile, Forecast, Hardware, Network
from minivess.errors import UsageError

Scene = tuple[config.ExperimentConfig, Network, ComputePlan, DatasetProfile, Hardware]


@pytest.fixture
def make_scene(
    make_network: Callable[..., Network],
    make_profile: Callable[..., DatasetProfile],
    make_machine: Callable[..., Hardware],
) -> Callable[..., Scene]:
    """Everything that a forecast needs, with words as a user types them."""

    def make(*words: str) -> Scene:
        settings = config.load([], ["training.patch_size=[16,16,8]", "training.threads=1", *words])
        profile, network, machine = make_profile([(32, 32, 8)] * 4), make_network(), make_machine()
        chosen = plan.resolve(settings, network, profile, machine, n_train=2)
        return settings, network, chosen, profile, machine

    return make


def cost(scene: Scene, cells: int = 4) -> Forecast:
    return forecast.forecast(*scene[:4], cells=cells)


def test_a_grid_costs_its_cells_times_its_epochs(make_scene: Callable[..., Scene]) -> None:
    found = cost(make_scene("training.max_epochs=10"))
    assert found.total_hours == pytest.approx(4 * 10 * found.seconds_per_epoch / 3600)
    assert found.seconds_per_epoch > 8 * found.seconds_per_step > 0


def test_disk_grows_with_the_cells(make_scene: Callable[..., Scene]) -> None:
    scene = make_scene()
    assert cost(scene, cells=8).disk_gb == pytest.approx(2 * cost(scene, cells=4).disk_gb)


@pytest.mark.parametrize("words", [
    (), ("training.gradient_checkpointing=true",), ("training.mixed_precision=bf16",),
    ("model.deep_supervision=true",),
])  # fmt: skip
def test_each_way_to_train_can_be_probed(
    make_scene: Callable[..., Scene], words: tuple[str, ...]
) -> None:
    assert cost(make_scene(*words)).seconds_per_step > 0


def test_the_probe_leaves_threads_and_random_numbers_as_they_were(
    make_scene: Callable[..., Scene],
) -> None:
    scene = make_scene("training.threads=2")
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    cost(scene)
    assert torch.get_num_threads() == 1
    assert torch.equal(torch.rand(2), expected)


def test_a_loss_that_does_not_exist_is_found_before_training(
    make_scene: Callable[..., Scene],
) -> None:
    with pytest.raises(UsageError, match="dice_cee"):
        cost(make_scene("training.losses=[dice_cee]"))


def test_the_decision_is_shown_whole(make_scene: Callable[..., Scene]) -> None:
    scene = make_scene()
    found = cost(scene)
    text = page.text(scene[2], found, scene[4])
    table = page.markdown(scene[2], found, scene[4])
    for name, choice in scene[2].choices.items():
        assert name in text
        assert f"| {name} | {page.shown(choice.value)} | {choice.bound} |" in table
        assert choice.more in table
        assert "given as" in choice.reason or choice.override in text
    assert "Forecast for 4 cells" in text
    assert max(map(len, text.splitlines())) <= 120
