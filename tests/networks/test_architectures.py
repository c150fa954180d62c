"""Every shipped network is built from its file, says what it takes, and trains."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from minivess import config, networks
from minivess.contracts import Network, Shape
from minivess.errors import PlanError, UsageError

NARROW = {
    "dynunet": (4, 8, 16), "unet": (4, 8, 16), "segresnet": (8, 16, 32), "swinunetr": (12,),
    "vista3d": (8, 16, 32), "resenc": (4, 8, 16), "mednext": (4, 8, 16),
}  # fmt: skip
ADAPTS = sorted(set(NARROW) - {"swinunetr"})
MINE = """
import torch

def build(network):
    return torch.nn.Conv3d(network.in_channels, network.out_channels, 3, padding=1)

def halving(network):
    return torch.nn.Sequential(
        torch.nn.MaxPool3d((2, 1, 1)),
        torch.nn.Upsample(scale_factor=(2, 1, 1)),
        torch.nn.Conv3d(network.in_channels, network.out_channels, 1),
    )
"""


def network(name: str, min_shape: Shape, **changes: object) -> Network:
    model = config.model(name, {"filters": NARROW.get(name, (4,)), **changes})
    return networks.resolve(model, in_channels=1, out_channels=3, min_shape=min_shape)


def one_step(record: Network, patch: Shape) -> torch.Tensor:
    """Train once; the weights must have moved."""
    module = networks.initial(record, seed=0).train()
    before = [weight.detach().clone() for weight in module.parameters()]
    logits = module(torch.randn(1, 1, *patch))
    target = torch.zeros(1, *patch, dtype=torch.long)
    torch.nn.functional.cross_entropy(logits, target).backward()
    torch.optim.AdamW(module.parameters(), lr=1e-2).step()
    assert all(weight.grad is not None for weight in module.parameters())
    moved = zip(before, module.parameters(), strict=True)
    assert any(not torch.equal(old, new) for old, new in moved)
    return logits


def test_every_network_that_is_shipped_is_tried_here() -> None:
    folder = Path(__file__).resolve().parents[2] / "configs" / "models"
    assert {file.stem for file in folder.glob("*.yaml")} == set(NARROW)


@pytest.mark.parametrize("name", ADAPTS)
def test_five_slices_train_without_padding(name: str) -> None:
    record = network(name, (32, 32, 5))
    assert networks.divisor(record)[2] == 1
    assert one_step(record, (32, 32, 5)).shape == (1, 3, 32, 32, 5)


@pytest.mark.parametrize("name", ADAPTS)
def test_each_axis_has_its_own_divisor(name: str) -> None:
    assert networks.divisor(network(name, (32, 32, 9))) == (4, 4, 2)


@pytest.mark.parametrize("name", ["resenc", "mednext"])
def test_deep_supervision_gives_a_head_for_each_level_and_one_answer_when_judged(name) -> None:
    record = network(name, (32, 32, 5), deep_supervision=True)
    module = networks.initial(record, seed=0)
    assert module(torch.randn(1, 1, 32, 32, 5)).shape == (1, 2, 3, 32, 32, 5)
    assert module.eval()(torch.randn(1, 1, 32, 32, 5)).shape == (1, 3, 32, 32, 5)


def test_the_blocks_of_each_level_are_those_that_the_model_file_gives() -> None:
    few, many = (
        networks.parameters(networks.build(network("resenc", (32, 32, 5), arguments=given)))
        for given in ({"blocks": [1, 1, 1]}, {})
    )
    assert few < many
    for wrong in ({"blocks": [1, 1]}, {"depth": 3}):
        with pytest.raises(PlanError, match="resenc"):
            networks.build(network("resenc", (32, 32, 5), arguments=wrong))


def test_swinunetr_takes_multiples_of_32_on_each_axis() -> None:
    record = network("swinunetr", (64, 64, 5))
    assert networks.divisor(record) == (32, 32, 32)
    assert networks.accepts(record, (64, 64, 32))
    assert not networks.accepts(record, (64, 64, 16))


@pytest.mark.slow
def test_swinunetr_trains() -> None:
    assert one_step(network("swinunetr", (64, 64, 32)), (64, 32, 32)).shape == (1, 3, 64, 32, 32)


@pytest.mark.parametrize(("name", "filters"), [
    ("segresnet", (8, 16, 24)), ("vista3d", (8, 24, 32)), ("swinunetr", (12, 24)),
])  # fmt: skip
def test_filters_that_a_network_does_not_have_are_refused(
    name: str, filters: tuple[int, ...]
) -> None:
    with pytest.raises(PlanError, match="filters"):
        networks.build(network(name, (64, 64, 32), filters=filters))


def test_a_network_of_ones_own_needs_only_an_import_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine_of_this_test.py").write_text(MINE)
    own = {"family": "mine", "strides": "own", "filters": (4,)}
    plain = network("unet", (32, 32, 5), builder="mine_of_this_test:build", **own)
    assert networks.divisor(plain) == (1, 1, 1)
    assert one_step(plain, (32, 32, 5)).shape == (1, 3, 32, 32, 5)
    halving = network("unet", (32, 32, 5), builder="mine_of_this_test:halving", **own)
    assert networks.divisor(halving) == (2, 1, 1)


def test_a_divisor_that_the_model_file_gives_is_proven() -> None:
    assert networks.divisor(network("unet", (64, 64, 32), divisibility_factor=8)) == (8, 8, 8)
    given = network("unet", (64, 64, 32), divisibility_factor=(16, 16, 4))
    assert networks.divisor(given) == (16, 16, 4)
    with pytest.raises(PlanError, match="refuses 10x10x10"):
        networks.divisor(network("unet", (64, 64, 32), divisibility_factor=2))


def test_a_setting_that_no_model_has_is_named() -> None:
    with pytest.raises(UsageError, match="max_patch_z"):
        network("unet", (64, 64, 32), max_patch_zz=3)
