from __future__ import annotations

import numpy as np
import pytest

from minivess.analysis import baseline
from minivess.config import ExperimentConfig
from minivess.evaluation import metrics

pytestmark = pytest.mark.slow
CONFIG = ExperimentConfig()


def test_a_threshold_is_tuned_on_training_volumes_and_judged_on_the_others(
    two_folds, cases, tmp_path
):
    found = baseline.judge(two_folds("tiny_a"), cases, CONFIG, tmp_path / "cache", {})
    assert [one.case for one in found.volumes] == list(cases)
    assert found.trainable_parameters == 0
    assert 0.3 < found.intervals["dice"].mean <= 1


def test_judged_thresholds_are_kept(two_folds, cases, tmp_path, monkeypatch):
    first = baseline.judge(two_folds("tiny_a"), cases, CONFIG, tmp_path / "cache", {})
    monkeypatch.setattr(metrics, "judge", None)
    assert baseline.judge(two_folds("tiny_b"), cases, CONFIG, tmp_path / "cache", {}) == first


def test_one_threshold_is_not_asked_to_separate_several_classes(member, cases, tmp_path):
    model = member("tiny_a", 0, ("vol02",), ("vol00",), classes=(0, 1, 2))
    assert baseline.judge([model], cases, CONFIG, tmp_path / "cache", {}) is None


@pytest.mark.parametrize("dark", [False, True])
def test_dark_and_bright_foreground_are_found(dark):
    scaled = np.concatenate([np.full(90, -0.5, np.float32), np.full(10, 2.0, np.float32)])
    truth = (scaled < 0) if dark else (scaled > 0)
    counts = np.stack([histogram(scaled[truth]), histogram(scaled)])
    threshold = baseline.tune([counts])
    np.testing.assert_array_equal(threshold.mask(scaled), truth.astype(np.uint8))


def test_volumes_without_foreground_do_not_stop_the_tuning():
    scaled = np.linspace(-1, 1, 50, dtype=np.float32)
    empty = np.stack([np.zeros(len(baseline.EDGES) + 1, np.int64), histogram(scaled)])
    assert baseline.tune([empty]).mask(scaled).sum() == 0


def histogram(values):
    places = np.searchsorted(baseline.EDGES, values, side="right")
    return np.bincount(places, minlength=len(baseline.EDGES) + 1)
