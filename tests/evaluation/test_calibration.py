"""Calibration by voxel: known miscalibration is found and undone."""

from __future__ import annotations

import numpy as np
import pytest

from minivess.contracts import IGNORED
from minivess.evaluation import calibration

SPACING = (1.0, 1.0, 2.0)


def predicted(rng, by=1.0, classes=2, shape=(24, 24, 6)):
    """Probabilities whose logits are `by` times those by which the truth was drawn."""
    logits = rng.normal(0, 1.0, (classes, *shape)).astype(np.float32)
    true = np.exp(logits) / np.exp(logits).sum(axis=0)
    drawn = (rng.random(shape) > true.cumsum(axis=0)).sum(axis=0).astype(np.uint8)
    return calibration.scaled(true, 1 / by, axis=0), drawn


def units(by, n=10, classes=2):
    rng = np.random.default_rng(0)
    volumes = [predicted(rng, by, classes) for _ in range(n)]
    return [calibration.sample(said, truth, SPACING) for said, truth in volumes]


@pytest.mark.parametrize(("by", "classes"), [(1.0, 2), (2.0, 2), (0.5, 2), (2.0, 4)])
def test_the_temperature_undoes_what_sharpened_the_logits(by, classes):
    fitted, parts, reliability = calibration.judge(units(by, classes=classes), range(classes))
    assert fitted == pytest.approx(by, rel=0.05)
    assert len(parts) == 5
    assert all(part == pytest.approx(by, rel=0.1) for part in parts)
    everywhere = [one for one in reliability if one.region == "everywhere"]
    assert [one.label for one in everywhere] == list(range(1, classes))
    for one in everywhere:
        assert one.scaled_error < 0.02
        assert one.error < 0.02 if by == 1 else one.error > 3 * one.scaled_error


def test_the_error_is_that_of_all_voxels_where_all_are_drawn():
    said, truth = predicted(np.random.default_rng(2), 2.0)
    _, parts, found = calibration.judge([calibration.sample(said, truth, SPACING)], (0, 7))
    place = np.minimum((said[1] * 10).astype(int), 9)
    gaps = [
        abs(said[1][place == k].mean() - (truth[place == k] == 1).mean()) * (place == k).mean()
        for k in range(10)
    ]
    assert found[0].error == pytest.approx(sum(gaps), abs=1e-4)
    assert (parts, found[0].label) == ((), 7)
    assert sum(share for _, _, share in found[0].bins) == pytest.approx(1)


def test_voxels_drawn_stand_for_all_and_none_without_annotation_is_drawn():
    truth = np.zeros((80, 80, 10), dtype=np.uint8)
    truth[30:50, 30:50] = 1
    truth[:10] = IGNORED
    said = np.full((2, *truth.shape), 0.5, dtype=np.float32)
    drawn = calibration.sample(said, truth, SPACING)
    assert (~drawn.near).sum() == calibration.SAMPLED
    assert drawn.weights.sum() == pytest.approx((truth != IGNORED).sum())
    assert set(drawn.truth) == {0, 1}
    shares = np.average(drawn.truth == 1, weights=drawn.weights)
    assert shares == pytest.approx((truth == 1).sum() / (truth != IGNORED).sum(), rel=0.05)


def test_near_walls_is_within_two_of_the_finest_voxels():
    truth = np.zeros((20, 20, 12), dtype=np.uint8)
    truth[10:] = 1
    assert list(np.flatnonzero(calibration.near_walls(truth, SPACING)[:, 5, 5])) == [8, 9, 10, 11]
    flat = np.moveaxis(truth, 0, 2)[:, :, :12]
    deep = calibration.near_walls(np.ascontiguousarray(flat), (1.0, 1.0, 4.0))
    assert deep[5, 5].sum() == 0
    deep = calibration.near_walls(np.ascontiguousarray(flat), (1.0, 1.0, 2.0))
    assert list(np.flatnonzero(deep[5, 5])) == [9, 10]
