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
    [
        ("adamw", torch.optim.AdamW),
        ("adam", torch.optim.Adam),
        ("sgd", torch.optim.SGD),
        ("muon", optim.Muon),
    ],
)
def test_the_optimizer_asked_for_is_made_with_its_decay(name, kind):
    training = TrainingConfig(optimizer=name, weight_decay=0.5)
    made = optim.optimizer(nn.Linear(2, 2), training)
    assert type(made) is kind
    assert made.param_groups[0]["weight_decay"] == 0.5


def test_the_average_follows_the_weights_by_its_decay():
    network = nn.Linear(1, 1, bias=False)
    average = optim.average(network, TrainingConfig(ema_decay=0.75))
    for value in (1.0, 2.0):
        nn.init.constant_(network.weight, value)
        average.update_parameters(network)
    (weight,) = average.module.parameters()
    assert weight.item() == pytest.approx(1.25)
    assert optim.average(network, TrainingConfig()) is None


def test_the_average_from_an_epoch_on_counts_all_weights_alike():
    network = nn.Linear(1, 1, bias=False)
    average = optim.average(network, TrainingConfig(average_from=0))
    for value in (1.0, 2.0, 6.0):
        nn.init.constant_(network.weight, value)
        average.update_parameters(network)
    assert next(average.parameters()).item() == pytest.approx(3.0)


def test_an_orthogonal_matrix_has_singular_values_near_one():
    for shape in ((8, 54), (54, 8)):
        matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        values = torch.linalg.svdvals(optim.orthogonal(matrix))
        assert values.min() > 0.5
        assert values.max() < 1.4


def test_muon_learns_and_resumes_to_the_same_weights():
    def trained(steps, stored=None):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv3d(1, 4, 3), nn.InstanceNorm3d(4, affine=True))
        updater = optim.optimizer(network, TrainingConfig(optimizer="muon", learning_rate=0.01))
        if stored is not None:
            network.load_state_dict(stored[0])
            updater.load_state_dict(stored[1])
        losses = []
        for _ in range(steps):
            loss = (network(torch.ones(1, 1, 5, 5, 5).cumsum(2)) - 1).square().mean()
            updater.zero_grad()
            loss.backward()
            updater.step()
            losses.append(loss.item())
        return losses, (network.state_dict(), updater.state_dict())

    losses, whole = trained(6)
    assert losses[-1] < losses[0]
    resumed = trained(3, trained(3)[1])[1]
    assert all(torch.equal(whole[0][name], resumed[0][name]) for name in whole[0])
