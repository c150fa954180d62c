"""A network is resolved against the data, built, and asked which shapes it takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from minivess import config, networks
from minivess.contracts import Network, Shape
from minivess.errors import PlanError, TrainingError, UsageError
from minivess.tracking.run.encoding import param_text
from minivess.tracking.run.params import arch_params


def dynunet(min_shape: Shape = (32, 32, 16), **changes: object) -> Network:
    model = config.model("dynunet", {"filters": [4, 8, 16], **changes})
    return networks.resolve(model, in_channels=1, out_channels=2, min_shape=min_shape)


@pytest.mark.parametrize(
    ("min_shape", "divisor"),
    [
        ((48, 48, 5), (4, 4, 1)),
        ((48, 48, 9), (4, 4, 2)),
        ((64, 64, 16), (4, 4, 4)),
        ((9, 40, 40), (2, 4, 4)),
    ],
)
def test_an_axis_is_halved_only_while_the_smallest_volume_allows_it(
    min_shape: Shape, divisor: Shape
) -> None:
    assert networks.divisor(dynunet(min_shape)) == divisor


def test_five_slices_train() -> None:
    network = dynunet((32, 32, 5))
    logits = networks.build(network).train()(torch.randn(1, 1, 32, 32, 5))
    logits.square().mean().backward()
    assert logits.shape == (1, 2, 32, 32, 5)


def test_what_was_chosen_for_five_slices_is_told_with_the_run() -> None:
    network = dynunet((48, 48, 5))
    told = arch_params(network, networks.divisor(network))
    assert param_text(told["arch_strides"]) == "[[1, 1, 1], [2, 2, 1], [2, 2, 1]]"
    assert param_text(told["arch_kernel_size"]) == "[[3, 3, 3], [3, 3, 3], [3, 3, 3]]"
    assert param_text(told["arch_divisor"]) == "[4, 4, 1]"


def test_a_network_of_odd_strides_is_known_by_running_it() -> None:
    strides = ((1, 1, 1), (3, 3, 1), (2, 1, 1))
    assert networks.divisor(dynunet(strides=strides)) == (6, 3, 1)
    wrong = dynunet(builder="tests.networks.test_networks:thirds", strides=strides)
    assert networks.divisor(wrong) == (3, 3, 3)


def thirds(network: Network) -> torch.nn.Module:
    """A network whose strides are not those of its record."""
    return torch.nn.Sequential(
        torch.nn.Conv3d(network.in_channels, 2, 3, stride=3), torch.nn.Upsample(scale_factor=3)
    )


def test_a_shape_off_the_divisor_is_refused_by_the_network_itself() -> None:
    network = dynunet((64, 64, 16))
    assert networks.accepts(network, (32, 32, 8))
    assert not networks.accepts(network, (32, 32, 6))


def test_a_patch_that_leaves_one_voxel_cannot_train() -> None:
    network = dynunet((64, 64, 16))
    assert not networks.accepts(network, networks.divisor(network))


def test_one_slice_has_kernels_that_look_at_no_neighbours() -> None:
    assert {kernel[2] for kernel in dynunet((32, 32, 1)).kernel_size} == {1}


def test_strides_that_are_given_are_used() -> None:
    strides = ((1, 1, 1), (2, 2, 1), (2, 2, 2))
    assert networks.divisor(dynunet(strides=strides)) == (4, 4, 2)


def test_strides_must_be_as_many_as_levels() -> None:
    with pytest.raises(PlanError, match=r"3 levels.*2 strides"):
        dynunet(strides=((1, 1, 1), (2, 2, 2)))


def test_two_levels_are_refused_with_what_dynunet_wants() -> None:
    model = config.model("dynunet", {"filters": [4, 8]})
    network = networks.resolve(model, in_channels=1, out_channels=2, min_shape=(32, 32, 16))
    with pytest.raises(PlanError, match="at least 3 levels"):
        networks.build(network)


def test_an_argument_that_the_builder_does_not_know_is_named() -> None:
    with pytest.raises(PlanError, match="wings"):
        networks.build(dynunet(arguments={"wings": 2}))


def test_a_builder_of_ones_own_is_found_by_its_import_path() -> None:
    network = dynunet(builder="torch.nn:Identity")
    assert isinstance(networks.build(network), torch.nn.Identity)
    assert networks.divisor(network) == (1, 1, 1)


def test_a_builder_that_does_not_exist_is_named() -> None:
    with pytest.raises(UsageError, match="nowhere:net"):
        networks.build(dynunet(builder="nowhere:net"))


def test_deep_supervision_stacks_its_heads_while_training() -> None:
    module = networks.build(dynunet(deep_supervision=True))
    volume = torch.randn(1, 1, 16, 16, 8)
    assert module.train()(volume).shape == (1, 2, 2, 16, 16, 8)
    assert module.eval()(volume).shape == (1, 2, 16, 16, 8)


def test_the_untrained_network_depends_on_the_seed_alone() -> None:
    first, again, other = (networks.initial(dynunet(), seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_making_the_untrained_network_leaves_the_random_state_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    networks.initial(dynunet(), seed=1)
    assert torch.equal(torch.rand(3), expected)


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    module = networks.initial(dynunet(), seed=3).eval()
    torch.save({"weights": module.state_dict(), "epoch": 4}, tmp_path / "last.pth")
    volume = torch.randn(1, 1, 16, 16, 8)
    loaded = networks.load(dynunet(), tmp_path / "last.pth")
    assert torch.equal(loaded(volume), module(volume))


@pytest.mark.parametrize("name", ["best.pth", "weights.safetensors"])
@pytest.mark.parametrize("content", [b"", b"not a checkpoint"])
def test_a_torn_checkpoint_is_named(tmp_path: Path, content: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TrainingError, match=name):
        networks.load(dynunet(), tmp_path / name)


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    module = networks.build(dynunet(filters=(4, 8, 8)))
    torch.save({"weights": module.state_dict()}, tmp_path / "other.pth")
    with pytest.raises(TrainingError, match="does not hold weights of dynunet"):
        networks.load(dynunet(), tmp_path / "other.pth")


def test_parameters_are_those_that_train() -> None:
    module = torch.nn.Linear(3, 2)
    module.bias.requires_grad = False
    assert networks.parameters(module) == 6


def test_recomputing_activations_changes_no_gradient() -> None:
    plain, frugal = (networks.initial(dynunet(), seed=0).train() for _ in range(2))
    networks.recompute(frugal)
    volume = torch.randn(1, 1, 16, 16, 8)
    for module in (plain, frugal):
        module(volume).square().mean().backward()
    pairs = zip(plain.named_parameters(), frugal.named_parameters(), strict=True)
    assert all(a == b and torch.allclose(p.grad, q.grad) for (a, p), (b, q) in pairs)


def test_resolving_imports_no_torch() -> None:
    code = (
        "import sys; from minivess import config, inference, losses, networks;"
        "networks.resolve(config.model('dynunet'), in_channels=1, out_channels=2,"
        " min_shape=(32, 32, 5)); losses.resolve(config.loss('cbdice_cldice'));"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
