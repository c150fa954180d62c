"""Learning rate, optimizer and average."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from minivess.config import TrainingConfig
from minivess.training import optim


def rates(**fields) -> list[float]:
    training = TrainingConfig(max_epochs=10, learning_rate=0.1, **fields)
    return [optim.learning_rate(epoch, training) for epoch in range(10)]


@pytest.mark.parametrize("scheduler", ["cosine", "poly"])
def test_the_rate_falls_from_the_given_one_towards_zero(scheduler):
    found = rates(scheduler=scheduler)
    assert found[0] == 0.1
    assert found == sorted(found, reverse=True)
    assert 0 < found[-1] < 0.02


def test_a_constant_rate_stays():
    assert set(rates(scheduler="constant")) == {0.1}


def test_warmup_rises_in_equal_steps_to_the_given_rate():
    found = rates(warmup_epochs=3, scheduler="poly")
    assert found[:4] == pytest.approx([0.025, 0.05, 0.075, 0.1])


@pytest.mark.parametrize(
    ("name", "kind"),
    [("adamw", torch.optim.AdamW), ("adam", torch.optim.Adam), ("sgd", torch.optim.SGD)],
)
def test_the_optimizer_asked_for_is_made_with_its_decay(name, kind):
    training = TrainingConfig(optimizer=name, weight_decay=0.5)
    made = optim.optimizer(nn.Linear(2, 2), training)
    assert type(made) is kind
    assert made.param_groups[0]["weight_decay"] == 0.5


def test_the_average_follows_the_weights_by_its_decay():
    network = nn.Linear(1, 1, bias=False)
    average = optim.average(network, 0.75)
    for value in (1.0, 2.0):
        nn.init.constant_(network.weight, value)
        average.update_parameters(network)
    (weight,) = average.module.parameters()
    assert weight.item() == pytest.approx(1.25)
    assert optim.average(network, 0.0) is None
