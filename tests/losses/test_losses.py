"""A loss is a weighted sum of terms that falls on a small problem."""

from __future__ import annotations

import inspect
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from minivess import config, losses
from minivess.config import LossConfig
from minivess.contracts import IGNORED, Loss, LossTerm
from minivess.errors import UsageError
from minivess.loss_terms import WeightedSum
from tests.conftest import tube

CLONE = Path(__file__).resolve().parents[2]
FILES = sorted(file.stem for file in (CLONE / "configs" / "losses").glob("*.yaml"))
DEFAULTS = ("dice_ce", "cbdice", "dice_ce_cldice", "cbdice_cldice")


def target(seed: int = 1) -> Tensor:
    return torch.from_numpy(tube((16, 16, 8), seed)[1])[None, None].long()


def certain(mask: Tensor) -> Tensor:
    """Logits that are sure of a binary mask."""
    return torch.cat([1 - mask, mask], dim=1).float() * 40 - 20


def one(term: str, **arguments: object) -> WeightedSum:
    terms = (LossTerm(loss=term, arguments=arguments),)
    return losses.build(Loss(name="own", terms=terms), 2)


@pytest.mark.parametrize("name", FILES)
def test_a_loss_falls_on_a_small_problem_with_finite_gradients(name: str) -> None:
    torch.manual_seed(0)
    loss = losses.build(losses.resolve(config.loss(name)), 2)
    mask = target()
    image = mask + 0.3 * torch.randn(mask.shape)
    network = torch.nn.Conv3d(1, 2, 3, padding=1)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1)
    values = []
    for _ in range(25):
        optimizer.zero_grad()
        value = loss(network(image), mask)["loss"]
        value.backward()
        assert all(torch.isfinite(weight.grad).all() for weight in network.parameters())
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.5 * values[0]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("filled", [False, True])
def test_each_term_has_a_gradient_that_is_finite_and_not_zero(name: str, filled: bool) -> None:
    torch.manual_seed(0)
    for term in losses.resolve(config.loss(name)).terms:
        loss = losses.build(Loss(name="one", terms=(term,)), 2)
        # Far from 0: a loss that takes logits for probabilities would clip them, and learn nothing.
        logits = (torch.randn(1, 2, 16, 16, 8) + 5).requires_grad_()
        value = loss(logits, target() if filled else torch.zeros_like(target()))["loss"]
        value.backward()
        assert math.isfinite(value.item())
        assert torch.isfinite(logits.grad).all()
        assert not filled or logits.grad.abs().max() > 1e-9


def test_every_loss_of_monai_has_a_file_or_a_reason_why_not() -> None:
    import monai.losses

    known = {
        name
        for name, kind in vars(monai.losses).items()
        if inspect.isclass(kind) and name.endswith("Loss")
    }
    used = {term.loss.rpartition(":")[2] for name in FILES for term in config.loss(name).terms}
    page = (CLONE / "docs" / "losses.md").read_text()
    assert {name for name in known - used if f"`{name}`" not in page} == set()
    assert {name for name in FILES if f"`{name}`" not in page} == set()


@pytest.mark.parametrize("name", DEFAULTS)
def test_a_perfect_answer_costs_nothing_and_a_wrong_one_does(name: str) -> None:
    loss = losses.build(losses.resolve(config.loss(name)), 2)
    mask = target()
    assert loss(certain(mask), mask)["loss"].item() == pytest.approx(0, abs=1e-3)
    assert loss(certain(1 - mask), mask)["loss"].item() > 0.5


@pytest.mark.parametrize("name", DEFAULTS)
@pytest.mark.parametrize("filled", [0, 1])
def test_an_empty_or_full_patch_gives_finite_values_and_gradients(name: str, filled: int) -> None:
    loss = losses.build(losses.resolve(config.loss(name)), 2)
    logits = torch.randn(2, 2, 16, 16, 5, requires_grad=True)
    value = loss(logits, torch.full((2, 1, 16, 16, 5), filled))["loss"]
    value.backward()
    assert math.isfinite(value.item())
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("name", DEFAULTS)
def test_half_precision_logits_are_judged_in_float32(name: str) -> None:
    loss = losses.build(losses.resolve(config.loss(name)), 2)
    logits = torch.randn(1, 2, 16, 16, 8).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        half = loss(logits, target())["loss"]
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(loss(logits.float(), target())["loss"].item())


def test_the_weights_of_the_default_losses_are_fixed() -> None:
    formulas = {name: losses.resolve(config.loss(name)).formula for name in DEFAULTS}
    assert formulas == {
        "dice_ce": "1*dice_ce",
        "cbdice": "0.5*cbdice + 0.5*dice_ce",
        "dice_ce_cldice": "0.5*dice_ce + 0.5*cldice",
        "cbdice_cldice": "0.5*cbdice + 0.5*dice_ce_cldice",
    }


def test_a_compound_loss_reports_its_terms_and_sums_them() -> None:
    loss = losses.build(losses.resolve(config.loss("cbdice_cldice")), 2)
    values = loss(torch.randn(1, 2, 16, 16, 8), target())
    assert set(values) == {"loss", "cbdice", "dice_ce_cldice"}
    parts = 0.5 * values["cbdice"] + 0.5 * values["dice_ce_cldice"]
    assert values["loss"].item() == pytest.approx(parts.item())


def test_a_loss_of_one_term_reports_only_itself() -> None:
    loss = losses.build(losses.resolve(config.loss("dice_ce")), 2)
    assert set(loss(torch.randn(1, 2, 16, 16, 8), target())) == {"loss"}


def test_the_named_sum_and_the_built_in_term_are_the_same_loss() -> None:
    logits = torch.randn(1, 2, 16, 16, 8)
    summed = losses.build(losses.resolve(config.loss("dice_ce_cldice")), 2)
    assert one("dice_ce_cldice")(logits, target())["loss"].item() == pytest.approx(
        summed(logits, target())["loss"].item()
    )


def test_a_term_that_starts_late_is_left_out_of_earlier_epochs() -> None:
    late = losses.build(losses.resolve(config.loss("dice_ce_late_cldice")), 2)
    logits = torch.randn(1, 2, 16, 16, 8, generator=torch.Generator().manual_seed(0))
    early = late(logits, target(), epoch=4)
    assert early["loss"] == one("dice_ce")(logits, target())["loss"]
    assert "cldice" not in early
    assert set(late(logits, target(), epoch=5)) == set(late(logits, target())) >= {"cldice"}


def test_a_loss_without_a_term_from_the_start_is_refused() -> None:
    terms = (LossTerm(loss="dice_ce", from_epoch=2),)
    with pytest.raises(UsageError, match="no term that counts from epoch 0"):
        losses.resolve(LossConfig(name="own", terms=terms))


def test_a_gap_costs_more_where_the_worst_neighbour_counts() -> None:
    label = torch.zeros(1, 1, 9, 9, 9, dtype=torch.long)
    label[..., 3:6, 3:6] = 1
    whole = torch.stack([-4.0 * (label[:, 0] * 2 - 1), 4.0 * (label[:, 0] * 2 - 1)], dim=1)
    gap = whole.clone()
    gap[:, :, 4] = whole[:, :, 4].flip(1)
    record = LossTerm(loss="dice_ce", worst_neighbour=True)
    penalty = losses.build(Loss(name="own", terms=(record,)), 2)
    plain = one("dice_ce")
    assert penalty(whole, label)["loss"] == plain(whole, label)["loss"]
    assert penalty(gap, label)["loss"] > 1.5 * plain(gap, label)["loss"]
    assert record.formula == "1*dice_ce (worst neighbour)"


def test_the_worst_neighbour_is_one_of_the_same_class() -> None:
    from minivess.loss_terms import seen

    label = torch.tensor([0, 0, 1, 1])[None, None, :, None, None]
    logits = torch.tensor([[3.0, 1.0, -1.0, 2.0], [0.0, 5.0, 4.0, 1.0]])[None, :, :, None, None]
    found = seen(logits, label, LossTerm(loss="dice_ce", worst_neighbour=True))[0, :, :, 0, 0]
    assert found.tolist() == [[1, 1, 2, 2], [5, 5, 1, 1]]


def test_heads_of_deep_supervision_weigh_less_the_deeper_they_are() -> None:
    loss = one("dice_ce")
    fine, coarse = torch.randn(2, 1, 2, 16, 16, 8)
    values = [loss(head, target())["loss"].item() for head in (fine, coarse)]
    stacked = loss(torch.stack([fine, coarse], dim=1), target())["loss"].item()
    assert stacked == pytest.approx((values[0] + 0.5 * values[1]) / 1.5)


@pytest.mark.parametrize("name", DEFAULTS)
def test_three_classes_train_too(name: str) -> None:
    loss = losses.build(losses.resolve(config.loss(name)), 3)
    logits = torch.randn(1, 3, 16, 16, 8, requires_grad=True)
    loss(logits, torch.randint(0, 3, (1, 1, 16, 16, 8)))["loss"].backward()
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("name", FILES)
def test_voxels_that_nobody_annotated_have_no_part_in_any_loss(name: str) -> None:
    torch.manual_seed(0)
    loss = losses.build(losses.resolve(config.loss(name)), 2, ignores=True)
    ignored = torch.rand(1, 1, 16, 16, 8) < 0.3
    mask = target().masked_fill(ignored, IGNORED)
    heads = torch.randn(1, 2, 2, 16, 16, 8)  # of deep supervision
    other = torch.where(ignored[:, None], 30 * torch.randn_like(heads), heads)
    values, gradients = [], []
    for logits in (heads.requires_grad_(), other.requires_grad_()):
        found = loss(logits, mask)
        found["loss"].backward()
        values.append({part: value.item() for part, value in found.items()})
        gradients.append(logits.grad)
    assert values[0] == values[1]
    assert math.isfinite(values[0]["loss"])
    assert torch.equal(*gradients)
    assert not gradients[0][ignored[:, None].expand_as(heads)].any()


@pytest.mark.parametrize("name", FILES)
def test_where_all_is_annotated_ignoring_changes_no_bit_of_a_loss(name: str) -> None:
    torch.manual_seed(0)
    logits = torch.randn(1, 2, 16, 16, 8)
    values = [
        losses.build(losses.resolve(config.loss(name)), 2, ignores=ignores)(logits, target())
        for ignores in (False, True)
    ]
    assert values[0]["loss"].item() == values[1]["loss"].item()


def test_dice_with_cross_entropy_of_an_annotated_half_is_that_of_the_half_alone() -> None:
    torch.manual_seed(0)
    logits, mask = torch.randn(1, 2, 16, 16, 8), target()
    mask[:, :, 8:] = IGNORED
    loss = losses.build(losses.resolve(config.loss("dice_ce")), 2, ignores=True)
    alone = one("dice_ce")(logits[:, :, :8], mask[:, :, :8])["loss"].item()
    assert loss(logits, mask)["loss"].item() == pytest.approx(alone)


def test_a_patch_without_an_annotated_voxel_teaches_nothing() -> None:
    loss = losses.build(losses.resolve(config.loss("dice_ce_cldice")), 2, ignores=True)
    logits = torch.randn(1, 2, 16, 16, 8, requires_grad=True)
    value = loss(logits, torch.full_like(target(), IGNORED))["loss"]
    value.backward()
    assert math.isfinite(value.item())
    assert not logits.grad.any()


def test_skeleton_recall_asks_for_the_line_and_not_for_the_width() -> None:
    wide, thin = disc(10, 6), disc(10, 3)
    assert one("skeleton_recall")(certain(thin), wide)["loss"].item() < 0.01
    assert one("skeleton_recall")(certain(1 - wide), wide)["loss"].item() > 0.9


def test_skeleton_recall_believes_the_skeleton_that_the_target_brings() -> None:
    brought = torch.cat([disc(10, 6), torch.zeros_like(disc(10, 6))], dim=1)
    assert one("skeleton_recall")(certain(1 - disc(10, 6)), brought)["loss"].item() == 0


def test_centerline_dice_sees_a_gap_that_dice_hardly_sees() -> None:
    mask = torch.zeros(1, 1, 32, 9, 9, dtype=torch.long)
    mask[:, :, :, 3:6, 3:6] = 1
    torn = mask.clone()
    torn[:, :, 14:20] = 0
    thin = mask.clone()
    thin[:, :, :, 5, :] = 0  # more voxels lost, none of the line
    assert one("cldice")(certain(torn), mask)["loss"] > one("cldice")(certain(thin), mask)["loss"]


def test_centerline_boundary_dice_sees_an_off_centre_vessel_that_centerline_dice_forgives() -> None:
    wide, beside = (disc(centre, radius) for centre, radius in ((10, 6), (13, 4)))
    assert one("cldice")(certain(beside), wide)["loss"].item() < 0.01
    assert one("cbdice")(certain(beside), wide)["loss"].item() > 0.1


def disc(centre: int, radius: int) -> Tensor:
    """A vessel along z with its axis at (centre, 10)."""
    x, y = torch.meshgrid(torch.arange(20), torch.arange(20), indexing="ij")
    inside = (x - centre) ** 2 + (y - 10) ** 2 < radius**2
    return inside[None, None, :, :, None].expand(1, 1, 20, 20, 12).long()


def test_a_loss_of_monai_gets_activation_and_one_hot_unasked() -> None:
    tversky = one("monai.losses:TverskyLoss", alpha=0.3, beta=0.7)
    assert tversky(certain(target()), target())["loss"].item() == pytest.approx(0, abs=1e-3)
    assert tversky(certain(1 - target()), target())["loss"].item() > 0.9


def test_a_loss_of_torch_gets_class_indices() -> None:
    assert one("torch.nn:CrossEntropyLoss")(certain(target()), target())["loss"].item() < 1e-3


def test_terms_of_one_name_are_told_apart() -> None:
    terms = [LossTerm(loss="monai.losses:DiceLoss")] * 2 + [LossTerm(loss="cldice")]
    named = losses.names(Loss(name="own", terms=tuple(terms)))
    assert named == ["DiceLoss", "DiceLoss_2", "cldice"]


def test_an_unknown_term_is_refused_naming_the_nearest() -> None:
    own = LossConfig(name="own", terms=(LossTerm(loss="cl_dice"),))
    with pytest.raises(UsageError, match="did you mean cldice"):
        losses.resolve(own)


def test_an_argument_that_a_loss_does_not_know_is_refused() -> None:
    with pytest.raises(UsageError, match="sharpness"):
        one("cldice", sharpness=3)
