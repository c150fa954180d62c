"""Real steps on the first real batch, timed before a grid begins."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from minivess.contracts import LossTerm
from minivess.errors import PlanError
from minivess.training import speed_probe
from tests.training.scene import make_cases, make_config, make_plan, make_spec


@pytest.mark.parametrize("changes", [
    {}, {"mixed_precision": "bf16"}, {"device": "cpu", "num_workers": 2},
])  # fmt: skip
def test_each_loss_of_the_grid_is_timed_on_the_first_batch(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    spec = make_spec()
    skeletons = make_spec(terms=(LossTerm(loss="dice_ce_cldice"),))
    cases, config = make_cases(tmp_path), make_config(accumulation_steps=2, ema_decay=0.9)
    found = speed_probe.times([spec, skeletons], make_plan(spec, **changes), config, cases)
    assert found.steps == 2 * speed_probe.STEPS
    assert min(found.step, found.load, found.window, found.judge) > 0


def test_the_probe_leaves_threads_and_random_numbers_as_they_were(tmp_path: Path) -> None:
    spec, cases = make_spec(), make_cases(tmp_path)
    before = torch.get_num_threads()
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    speed_probe.times([spec], make_plan(spec, threads=before + 1), make_config(), cases)
    assert torch.get_num_threads() == before
    assert torch.equal(torch.rand(2), expected)


def test_more_numbers_of_threads_are_timed_against_the_first(tmp_path: Path) -> None:
    spec, cases = make_spec(), make_cases(tmp_path)
    found = speed_probe.times([spec], make_plan(spec), make_config(), cases, [2])
    assert set(found.ratios) == {2}
    assert found.at(2).step == pytest.approx(found.step * found.ratios[2])
    assert found.at(1) == found
    assert 0 < found.quiet <= 1 <= found.slow


def test_each_patch_of_a_schedule_is_timed(tmp_path: Path) -> None:
    spec, cases = make_spec(), make_cases(tmp_path)
    plan = make_plan(spec, patch_schedule=((8, 8, 8), (16, 16, 8)))
    found = speed_probe.times([spec], plan, make_config(), cases)
    assert found.steps == 2 * speed_probe.STEPS
    whole = speed_probe.times([spec], make_plan(spec), make_config(), cases)
    assert 0 < found.step < 2 * whole.step


def test_a_first_batch_that_does_not_suit_the_plan_is_refused(tmp_path: Path) -> None:
    spec, cases = make_spec(), make_cases(tmp_path)
    with pytest.raises(PlanError, match="does not fit"):
        speed_probe.times([spec], make_plan(spec, patch_size=(16, 32, 8)), make_config(), cases)
