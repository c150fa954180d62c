"""A finished training goes on when asked, from its last weights and under the longer schedule."""

from __future__ import annotations

import pytest
import torch

from minivess import names
from minivess.errors import TrainingError
from minivess.training import cell, extension
from tests.training import scene


def test_more_epochs_go_on_from_the_last_one_and_the_schedule_is_the_longer_one(tmp_path):
    cases = scene.make_cases(tmp_path)
    short, longer = scene.make_config(), scene.make_config(max_epochs=5, extends=3)
    scene.train(tmp_path / "short", cases, config=short)
    before = cell.read_history(tmp_path / "short")
    spec = scene.make_spec(key="longer")
    said = extension.adopt(tmp_path / "short", "a-key", tmp_path / "longer", spec, longer)
    assert "after epoch 3 of a finished training. Its cosine schedule had" in said
    assert "is not that of 5 epochs in one go" in said
    heard = scene.Heard()
    result = scene.train(tmp_path / "longer", cases, spec=spec, config=longer, heard=heard)
    assert (result.key, result.epochs, heard.epochs) == ("longer", 5, [0, 1, 2, 3, 4])
    assert [entry["metrics"] for entry in before] == heard.metrics[:3]
    rates = [metrics["learning_rate"] for metrics in heard.metrics]
    assert rates[3] == pytest.approx(5e-3 * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * 3 / 5))))
    assert cell.complete(tmp_path / "short", "a-key") is not None


def test_without_a_finished_training_the_remedy_says_which(tmp_path):
    spec, longer = scene.make_spec(key="longer"), scene.make_config(max_epochs=5, extends=3)
    with pytest.raises(TrainingError, match="No finished training of 3 epochs") as raised:
        extension.adopt(tmp_path / "none", "a-key", tmp_path / "longer", spec, longer)
    assert "training.max_epochs=3" in raised.value.remedy
    assert not (tmp_path / "longer" / names.LAST).exists()
