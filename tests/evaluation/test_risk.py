"""Conformal risk control: thresholds hold their loss, also against another library."""

from __future__ import annotations

import numpy as np
import pytest

from minivess.evaluation import risk

SHAPE = (12, 12, 4)
ALL = np.ones(SHAPE, dtype=bool)


def volume(rng):
    """Foreground probability and truth of one volume; some volumes are much harder."""
    truth = np.zeros(SHAPE, dtype=bool)
    truth[3:9, 3:9] = True
    quality = rng.beta(4, 2)
    noise = rng.normal(0, 1.2, SHAPE) + np.where(truth, 3 * quality, -3 * quality)
    return (1 / (1 + np.exp(-noise))).astype(np.float32), truth


def losses(volumes):
    found = [risk.curves(said, truth, ALL, np.argwhere(truth)[::5]) for said, truth in volumes]
    return {name: np.array([one[name] for one in found]) for name in risk.LOSSES}


@pytest.fixture(scope="module")
def population():
    rng = np.random.default_rng(0)
    return losses([volume(rng) for _ in range(400)])


def test_losses_are_those_of_the_masks_at_each_threshold():
    said, truth = volume(np.random.default_rng(3))
    found = risk.curves(said, truth, ALL, np.argwhere(truth)[:7])
    for step in (0, 1, 100, 255, 256):
        mask = said >= (step - 0.5) / 255
        missed = (truth & ~mask).sum() / truth.sum()
        false = min(1, (mask & ~truth).sum() / truth.sum())
        assert found["missed_foreground"][step] == pytest.approx(missed)
        assert found["false_foreground"][step] == pytest.approx(false)
        assert found["missed_centreline"][step] == pytest.approx(
            (~mask[tuple(np.argwhere(truth)[:7].T)]).mean()
        )


def test_what_is_not_annotated_and_an_empty_truth_are_no_loss_of_their_own():
    said, truth = volume(np.random.default_rng(3))
    inside = risk.curves(said, truth, truth, np.argwhere(truth))
    assert not inside["false_foreground"].any()
    empty = risk.curves(said, ~ALL, ALL, np.empty((0, 3), dtype=np.int32))
    assert not empty["missed_foreground"].any()
    assert not empty["missed_centreline"].any()
    assert (empty["false_foreground"][0], empty["false_foreground"][256]) == (1, 0)


@pytest.mark.parametrize("name", risk.LOSSES)
def test_over_200_samples_the_mean_loss_of_new_volumes_stays_within_alpha(population, name):
    rng, alpha, found = np.random.default_rng(1), 0.15, []
    for _ in range(200):
        order = rng.permutation(400)
        step = risk.choose(population[name][order[:20]], alpha, rising=name != "false_foreground")
        found.append(population[name][order[20:], step].mean())
    assert alpha / 3 < np.mean(found) < alpha + 2 * np.std(found) / 200**0.5


def test_the_record_states_bound_and_simulated_loss_of_what_was_held_out(population):
    some = {name: each[:30] for name, each in population.items()}
    for one in risk.control(some, 0.15, grouped=False):
        assert one.bound <= one.alpha
        assert one.simulated < 0.16
        assert 0.5 < one.within <= 1
        assert (one.n, one.unit, one.splits) == (30, "volume", 200)
        assert set(one.others) == set(risk.LOSSES) - {one.loss}


def test_too_few_volumes_give_no_threshold_and_the_smallest_alpha(population):
    few = {name: each[:4] for name, each in population.items()}
    for one in risk.control(few, 0.1, grouped=True):
        assert (one.threshold, one.bound, one.simulated) == (None, None, None)
        assert (one.smallest_alpha, one.unit) == (0.2, "group")
    at_it = risk.control(few, 0.2, grouped=True)
    assert all(one.bound == pytest.approx(0.2) for one in at_it)


def test_mapie_chooses_the_same_threshold_of_missed_foreground():
    controllers = pytest.importorskip("mapie.risk_control")
    rng = np.random.default_rng(5)
    volumes = [volume(rng) for _ in range(15)]
    said = np.array([each.reshape(1, 12, -1) for each, _ in volumes])
    rounded = np.rint(said * risk.STEPS) / risk.STEPS
    truth = np.array([each.reshape(1, 12, -1) for _, each in volumes]).astype(int)
    controller = controllers.SemanticSegmentationController(
        predict_function=lambda at: rounded[np.ravel(at)], risk="recall", method="crc",
        target_level=0.85, predict_params=(np.arange(257) - 0.5) / risk.STEPS,
    )  # fmt: skip
    controller.calibrate(np.arange(15)[:, None], truth)
    (ours, *_) = risk.control(losses(volumes), 0.15, grouped=False)
    assert ours.threshold == pytest.approx(float(controller.best_predict_param[0]))
