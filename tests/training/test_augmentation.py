"""Random changes of a patch."""

from __future__ import annotations

import pytest
import torch

from minivess.config import TrainingConfig
from minivess.training import augmentation, transforms
from tests.conftest import tube

PATCH = (24, 24, 8)
CHANGES = [
    augmentation.TurnAndScale,
    augmentation.BrokenVessels,
    augmentation.CoarseSlices,
    augmentation.SliceDrift,
    augmentation.PhotonNoise,
]


def sample(shape=PATCH):
    image, mask = tube(shape, seed=0)
    label = torch.from_numpy(mask[None].astype("uint8"))
    return {
        "case": "tube",
        "image": torch.from_numpy(image[None].astype("float32")),
        "label": label,
        "foreground": [label[0].flatten().nonzero()[:, 0].numpy()],
        "partial": False,
    }


def changed(kind, data, seed=0):
    return kind(1.0).set_random_state(seed=seed)(data)


@pytest.mark.parametrize("augment", ["none", "light", "full"])
def test_a_set_is_a_function_of_the_seed(augment):
    drawn = transforms.drawn((16, 16, 8), foreground_ratio=0.5, augment=augment)
    first, again, other = (transforms.draw(drawn, sample(), seed)["image"] for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("shape", [PATCH, (16, 24, 1), (16, 16, 2)])
def test_the_full_set_keeps_shape_type_and_label_values_of_any_patch(shape):
    drawn = transforms.drawn(shape, foreground_ratio=0.5, augment="full")
    for seed in range(40):
        patch = transforms.draw(drawn, sample(shape), seed)
        assert patch["image"].shape == patch["label"].shape == (1, *shape)
        assert patch["image"].isfinite().all()
        assert set(patch["label"].unique().tolist()) <= {0, 1}


@pytest.mark.parametrize("kind", CHANGES)
def test_a_change_leaves_the_cached_volume_alone(kind):
    data = sample()
    kept = {key: data[key].clone() for key in ("image", "label")}
    found = changed(kind, data)
    assert not torch.equal(found["image"], kept["image"])
    assert all(torch.equal(data[key], kept[key]) for key in kept)


def test_image_and_label_are_turned_and_scaled_together():
    data = sample()
    data["image"] = data["label"].float()
    found = changed(augmentation.TurnAndScale, data)
    assert not torch.equal(found["label"], data["label"])
    agree = (found["image"] > 0.5) == (found["label"] > 0)
    assert agree.float().mean() > 0.97


def test_a_gap_is_in_the_image_and_not_in_the_label():
    data = sample()
    data["image"] = 10 * data["label"].float()
    found = changed(augmentation.BrokenVessels, data)
    broken = found["image"] != data["image"]
    assert broken.any()
    assert (found["image"][broken] == 0).all()
    assert torch.equal(found["label"], data["label"])


def test_a_patch_without_vessel_has_none_to_break():
    data = sample() | {"label": torch.zeros(1, *PATCH, dtype=torch.uint8)}
    assert torch.equal(changed(augmentation.BrokenVessels, data)["image"], data["image"])


def test_true_and_false_of_older_files_are_the_light_set_and_none():
    assert TrainingConfig.model_validate({"augment": True}).augment == "light"
    assert TrainingConfig.model_validate({"augment": False}).augment == "none"
