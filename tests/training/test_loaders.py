"""Volumes, patches and batches."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from minivess.contracts import IGNORED, Case
from minivess.errors import DataError, PlanError
from minivess.training import loaders, transforms
from tests.conftest import tube, write_nifti
from tests.training import scene


@pytest.fixture
def cases(tmp_path):
    return scene.make_cases(tmp_path)


def batches(cases, *, plan=None, **training) -> loaders.Batches:
    spec, config = scene.make_spec(), scene.make_config(**training)
    planned = scene.make_plan(spec, **(plan or {}))
    return replace(loaders.Batches.of(spec, planned, config, cases), seed=7)


def same(a: list[loaders.Batch], b: list[loaders.Batch]) -> bool:
    return len(a) == len(b) and all(
        x.cases == y.cases and torch.equal(x.image, y.image) and torch.equal(x.label, y.label)
        for x, y in zip(a, b, strict=True)
    )


def test_a_batch_has_the_planned_shape_and_size(cases):
    first = next(batches(cases).epoch(0))
    assert first.image.shape == first.label.shape == (2, 1, 16, 16, 8)
    assert (first.image.dtype, first.label.dtype) == (torch.float32, torch.uint8)


def test_patches_grow_from_epoch_to_epoch_and_the_last_is_the_planned_one(cases):
    made = batches(cases, plan={"patch_schedule": ((8, 8, 8), (16, 16, 8))})
    sides = [next(made.epoch(epoch)).image.shape[2:] for epoch in range(3)]
    assert [tuple(one) for one in sides] == [(8, 8, 8), (16, 16, 8), (16, 16, 8)]


@pytest.mark.parametrize("plan", [{"num_workers": 3}, {"cache_rate": 0.0}])
def test_neither_workers_nor_the_cache_change_a_batch(cases, plan):
    assert same(list(batches(cases).epoch(1)), list(batches(cases, plan=plan).epoch(1)))


def test_epochs_differ_and_each_is_repeatable(cases):
    made = batches(cases)
    first = list(made.epoch(0))
    assert not same(first, list(made.epoch(1)))
    assert same(first, list(made.epoch(0)))


def test_each_volume_gives_its_samples_before_any_gives_more(cases):
    made = batches(cases, plan={"iterations_per_epoch": 9}, samples_per_volume=3)
    order = made.order(0)
    assert [np.bincount(part).tolist() for part in (order[:9], order[9:])] == [[3, 3, 3]] * 2
    assert not np.array_equal(order[:9], order[9:])


def test_accumulation_makes_more_batches_of_each_step(cases):
    assert len(list(batches(cases, accumulation_steps=3).epoch(0))) == 12


def test_the_foreground_ratio_decides_what_patches_are_centred_on():
    label = torch.zeros(1, 40, 40, 8, dtype=torch.uint8)
    label[0, 20, 20, 4] = 1
    image = torch.zeros(1, 40, 40, 8)
    sample = transforms.FindForeground()({"case": "a", "image": image, "label": label})

    def hits(ratio: float) -> float:
        drawn = transforms.drawn((8, 8, 4), foreground_ratio=ratio, augment="none")
        found = [transforms.draw(drawn, sample, seed)["label"].any() for seed in range(300)]
        return float(np.mean(found))

    assert hits(1.0) == 1
    assert hits(0.5) == pytest.approx(0.5 + 0.5 * hits(0.0), abs=0.08)
    assert hits(0.0) < 0.1


def test_patches_hold_annotated_voxels_and_ignored_ones_are_no_foreground():
    label = torch.full((1, 40, 40, 8), IGNORED, dtype=torch.uint8)
    label[0, 30:, 30:] = 0
    label[0, 35, 35, 4] = 1
    data = {"case": "a", "image": torch.zeros(1, 40, 40, 8), "label": label}
    sample = transforms.FindForeground()(data)
    assert [at.size for at in sample["foreground"]] == [1]
    drawn = transforms.drawn((8, 8, 4), foreground_ratio=0.0, augment="none")
    for seed in range(30):
        assert (transforms.draw(drawn, sample, seed)["label"] != IGNORED).any()


def test_augmentation_changes_patches_and_leaves_the_cached_volume_alone(cases):
    plain, changed = batches(cases, augment=False), batches(cases)
    before = [plain.volumes[i]["image"].clone() for i in range(3)]
    assert not same(list(plain.epoch(0)), list(changed.epoch(0)))
    list(changed.epoch(0))
    assert all(torch.equal(a, changed.volumes[i]["image"]) for i, a in enumerate(before))


def test_image_and_label_are_cut_and_turned_together():
    label = torch.from_numpy(tube((24, 24, 8), seed=1)[1][None])
    sample = transforms.FindForeground()({"case": "a", "image": label.float(), "label": label})
    geometry = transforms.drawn((16, 16, 8), foreground_ratio=0.5, augment="light")
    for seed in range(20):
        patch = transforms.draw(geometry, sample, seed)
        assert torch.equal(patch["image"] > patch["image"].mean(), patch["label"] > 0)


def test_a_volume_thinner_than_the_patch_is_padded_only_if_the_plan_says_so(tmp_path, cases):
    image, mask = tube((24, 24, 5), seed=9)
    thin = {
        "image": write_nifti(tmp_path / "thin_img.nii.gz", image),
        "label": write_nifti(tmp_path / "thin_seg.nii.gz", mask),
    }
    cases["vol0"] = Case(case="vol0", image=thin["image"], label=thin["label"])
    with pytest.raises(PlanError, match="does not fit vol0"):
        list(batches(cases).epoch(0))
    padded = batches(cases, plan={"padded": {"vol0": (0, 0, 3)}})
    assert padded.volumes[0]["label"].shape == (1, 24, 24, 8)
    assert len(list(padded.epoch(0))) == 4


def test_a_case_without_label_or_outside_the_set_is_refused_by_name(cases):
    cases["vol1"] = cases["vol1"].replace(label=None)
    with pytest.raises(DataError, match="vol1 has no label"):
        list(batches(cases).epoch(0))
    del cases["vol0"]
    with pytest.raises(DataError, match="names vol0"):
        batches(cases)


def test_seeds_are_functions_of_their_parts():
    assert transforms.seed_of("a", 1, 2) == transforms.seed_of("a", 1, 2) < 2**63
    assert transforms.seed_of("a", 1, 2) != transforms.seed_of("a", 12)
