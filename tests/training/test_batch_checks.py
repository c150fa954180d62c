"""What loaders hand over is held against the plan before the first step."""

from __future__ import annotations

import pytest
import torch

from minivess.errors import DataError, PlanError
from minivess.training import batch_checks
from minivess.training.loaders import Batch
from tests.conftest import tube, write_nifti
from tests.training import scene

SPEC = scene.make_spec()
PLAN = scene.make_plan(SPEC)


def batch(*, patch=(16, 16, 8), channels=1, kind=torch.uint8, highest=1) -> Batch:
    image, label = torch.zeros(2, channels, *patch), torch.zeros(2, 1, *patch, dtype=kind)
    label[0, 0, 0, 0, 0] = highest
    return Batch(("vol1", "vol0"), image, label)


def test_what_suits_the_plan_passes():
    batch_checks.shape(batch(), SPEC, PLAN, PLAN.patch_size)
    batch_checks.contents(batch(), SPEC)


@pytest.mark.parametrize("wrong", [batch(patch=(16, 16, 4)), batch(channels=2)])
def test_another_shape_than_the_plans_is_stopped(wrong):
    with pytest.raises(PlanError, match="the plan and the network say") as raised:
        batch_checks.shape(wrong, SPEC, PLAN, PLAN.patch_size)
    assert "retrain=always" in raised.value.remedy


@pytest.mark.parametrize(("wrong", "complaint"), [
    (batch(kind=torch.float32), "labels of torch.float32"),
    (batch(highest=2), "labels up to 2, where there are 2 classes"),
])  # fmt: skip
def test_other_numbers_than_the_networks_are_stopped_by_name(wrong, complaint):
    with pytest.raises(DataError, match=f"vol0, vol1 came with .*{complaint}"):
        batch_checks.contents(wrong, SPEC)


@pytest.mark.parametrize("case", ["vol2", "vol3"])
def test_a_training_stops_before_its_first_step_for_either_loader(tmp_path, case):
    """The fold trains on vol0, vol1, vol2 and validates vol3 first; three classes, two outputs."""
    cases = scene.make_cases(tmp_path)
    spec = scene.make_spec().replace(classes=(0, 1, 2))
    _, mask = tube(scene.SHAPE, seed=0)
    if case == "vol2":
        cases = dict.fromkeys(cases, cases["vol2"]) | {"vol3": cases["vol3"]}
    write_nifti(cases[case].label, mask * 2)
    heard = scene.Heard()
    with pytest.raises(DataError, match="labels up to 2"):
        scene.train(tmp_path / "cell", cases, spec=spec, heard=heard)
    assert heard.epochs == []
    assert not list((tmp_path / "cell").glob("*.pth"))


def test_a_volume_whose_label_does_not_cover_it_is_stopped():
    short = Batch(("vol3",), torch.zeros(1, 1, 24, 24, 8), torch.zeros(1, 1, 24, 24, 7))
    with pytest.raises(DataError, match="vol3 has an image of"):
        batch_checks.whole_volume(short, SPEC)
    two = Batch(("vol3",), torch.zeros(1, 2, 24, 24, 8), torch.zeros(1, 1, 24, 24, 8))
    with pytest.raises(PlanError, match="has 2 channels"):
        batch_checks.whole_volume(two, SPEC)
