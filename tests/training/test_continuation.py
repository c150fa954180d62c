"""A finished training goes on when asked, from its last weights and under the longer schedule."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from minivess import names
from minivess.errors import TrainingError
from minivess.training import cell_folder, continuation
from tests.training import scene

pytestmark = pytest.mark.slow

LONGER = scene.make_spec(key="longer")


def opened(folder: Path) -> Path:
    """The folder of the longer cell, with its plan."""
    cell_folder.open_cell(folder, LONGER, scene.make_plan(LONGER), resume=False)
    return folder


def test_more_epochs_go_on_from_the_last_one_and_the_schedule_is_the_longer_one(tmp_path):
    cases, longer = scene.make_cases(tmp_path), scene.make_config(max_epochs=5, extends=3)
    scene.train(tmp_path / "short", cases, config=scene.make_config())
    before = cell_folder.read_history(tmp_path / "short")
    shorter = continuation.FinishedTraining(tmp_path / "short", "a-key", 3)
    assert shorter.begin(opened(tmp_path / "longer"), "longer")
    assert not shorter.begin(tmp_path / "longer", "longer")
    heard = scene.Heard()
    result = scene.train(tmp_path / "longer", cases, spec=LONGER, config=longer, heard=heard)
    assert (result.key, result.epochs, heard.epochs) == ("longer", 5, [0, 1, 2, 3, 4])
    assert [entry["metrics"] for entry in before] == heard.metrics[:3]
    rates = [metrics["learning_rate"] for metrics in heard.metrics]
    assert rates[3] == pytest.approx(5e-3 * 0.5 * (1 + math.cos(math.pi * 3 / 5)))
    assert cell_folder.complete(tmp_path / "short", "a-key") is not None


def test_what_going_on_does_to_the_learning_rate_is_said():
    said = continuation.describe(scene.make_config(max_epochs=5, extends=3).training)
    assert "after epoch 3 of a finished training. Its cosine schedule had" in said
    assert f"at {5e-3 * 0.25:.2g}; that of 5 epochs goes on at 0.0017" in said
    assert "is not that of 5 epochs in one go" in said


def test_the_plan_is_that_of_the_shorter_training_but_for_another_device(tmp_path):
    config = scene.make_config(max_epochs=1)
    scene.train(tmp_path, scene.make_cases(tmp_path), config=config, plan={"batch_size": 1})
    shorter = continuation.FinishedTraining(tmp_path, "a-key", 1)
    fresh = scene.make_plan(LONGER)
    assert shorter.plan(fresh) == fresh.replace(batch_size=1)
    elsewhere = fresh.replace(device="cuda")
    assert shorter.plan(elsewhere) == elsewhere


def test_without_a_finished_training_the_remedy_says_which(tmp_path):
    shorter = continuation.FinishedTraining(tmp_path / "none", "a-key", 3)
    for attempt in (
        lambda: shorter.begin(opened(tmp_path / "longer"), "longer"),
        lambda: shorter.plan(scene.make_plan(LONGER)),
    ):
        with pytest.raises(TrainingError, match="No finished training of 3 epochs") as raised:
            attempt()
        assert "training.max_epochs=3" in raised.value.remedy
    assert not (tmp_path / "longer" / names.LAST).exists()


def test_a_training_that_stopped_early_is_not_gone_on_from(tmp_path):
    config = scene.make_config(max_epochs=9, early_stopping_patience=1, learning_rate=0.5)
    result = scene.train(tmp_path, scene.make_cases(tmp_path), config=config)
    assert result.stopped_early
    with pytest.raises(TrainingError, match="stopped early, after"):
        continuation.FinishedTraining(tmp_path, "a-key", 9).plan(scene.make_plan(LONGER))
