"""Masks judged by hand-made truths and by slow reference formulas."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import binary_erosion, gaussian_filter
from scipy.spatial.distance import cdist
from skimage.morphology import skeletonize

from minivess import names
from minivess.config import EvaluationConfig
from minivess.contracts import IGNORED
from minivess.evaluation import metrics, regions
from tests.conftest import tube
from tests.evaluation import slow_metrics

CONFIG = EvaluationConfig()
SHAPE = (6, 5, 4)
masks = arrays(np.uint8, SHAPE, elements=st.integers(0, 1))


def judge(prediction, truth, classes=(0, 1), **options):
    return metrics.judge(prediction, truth, classes=classes, **{"config": CONFIG, **options})


def block(*slices):
    mask = np.zeros((20, 20, 10), np.uint8)
    mask[slices] = 1
    return mask


def test_every_metric_has_its_name_and_a_perfect_mask_has_perfect_values():
    truth = tube((24, 24, 8), seed=0)[1]
    assert judge(truth, truth) == {
        "dice": 1, "f1": 1, "cldice": 1, "masd": 0, "hd95": 0, "nsd": 1, names.PRIMARY: 1,
    }  # fmt: skip
    assert set(judge(truth, truth)) == set(names.METRICS)


def test_two_empty_masks_agree_perfectly():
    empty = np.zeros(SHAPE, np.uint8)
    values = judge(empty, empty)
    assert [values[name] for name in ("dice", "cldice", "nsd", "f1", names.PRIMARY)] == [1] * 5
    assert (values["masd"], values["hd95"]) == (0, 0)


def test_one_empty_mask_scores_nothing_and_has_no_distance():
    empty, full = np.zeros(SHAPE, np.uint8), np.ones(SHAPE, np.uint8)
    for values in (judge(empty, full), judge(full, empty)):
        assert [values[name] for name in ("dice", "cldice", "nsd", "f1", names.PRIMARY)] == [0] * 5
        assert (values["masd"], values["hd95"]) == (None, None)


@given(masks, masks, masks, masks)
@settings(max_examples=30, deadline=None)
def test_predictions_of_voxels_that_nobody_annotated_change_no_metric(
    first, second, label, annotated
):
    truth = np.where(annotated, label, np.uint8(IGNORED))
    other = np.where(annotated, first, second)
    assert judge(first, truth) == judge(other, truth)


def test_a_mask_ends_where_annotation_ends_as_it_ends_with_the_volume():
    truth, guess = tube((24, 24, 8), seed=0)[1], tube((24, 24, 8), seed=1)[1]
    partly = truth.copy()
    partly[:, 11:] = IGNORED
    assert judge(guess, partly) == judge(guess[:, :11], truth[:, :11])
    assert judge(truth, partly)["hd95"] == 0
    assert judge(truth, partly)["dice"] == 1


def test_both_masks_are_shown_as_background_where_there_is_no_annotation():
    truth, guess = np.array([1, IGNORED, 0], np.uint8), np.array([1, 1, 1], np.uint8)
    shown = metrics.judged(truth, guess)
    assert [mask.tolist() for mask in shown] == [[1, 0, 0], [1, 0, 1]]


def test_distances_are_in_the_unit_of_the_spacing_and_the_compound_metric_in_voxels():
    truth, moved = block(5, slice(3, 17), slice(2, 8)), block(8, slice(3, 17), slice(2, 8))
    values = judge(moved, truth, spacing=(0.5, 1.0, 2.0))
    assert values["masd"] == pytest.approx(3 * 0.5)
    assert values["hd95"] == pytest.approx(3 * 0.5)
    assert values[names.PRIMARY] == pytest.approx(0.5 * 0 + 0.5 * (1 - 3 / 50))


def test_masd_is_the_mean_of_the_two_directed_means_not_of_all_distances():
    truth, half = block(5, slice(2, 18), 5), block(5, slice(2, 4), 5)
    missing = np.mean([max(0, y - 3) for y in range(2, 18)])
    assert judge(half, truth)["masd"] == pytest.approx((0 + missing) / 2)


def test_cldice_forgives_thickness_but_not_a_missing_stretch():
    truth = block(slice(9, 12), slice(0, 20), slice(4, 7))
    thick = judge(block(slice(7, 14), slice(0, 20), slice(2, 9)), truth)
    assert thick["dice"] < 0.4
    assert thick["cldice"] > 0.9
    short = judge(block(slice(9, 12), slice(0, 10), slice(4, 7)), truth)
    assert short["cldice"] == pytest.approx(2 / 3, abs=0.05)


def test_the_cap_and_the_tolerance_that_are_given_are_used():
    truth, moved = block(5, slice(3, 17), slice(2, 8)), block(8, slice(3, 17), slice(2, 8))
    close = EvaluationConfig(masd_cap=6, nsd_tolerance=3)
    assert judge(moved, truth)["nsd"] == 0
    assert judge(moved, truth, config=close)["nsd"] == 1
    assert judge(moved, truth, config=close)[names.PRIMARY] == pytest.approx(0.25)


def test_several_classes_are_averaged_and_stand_beside_under_their_label_values():
    truth = block(slice(0, 4)) + 2 * block(slice(10, 14))
    guess = block(slice(0, 4))
    values = judge(guess, truth, classes=(0, 3, 7))
    assert (values["dice_class3"], values["dice_class7"], values["dice"]) == (1, 0, 0.5)
    assert (values["masd_class3"], values["masd_class7"], values["masd"]) == (0, None, None)


def test_without_topology_only_overlap_is_measured():
    truth = block(slice(0, 4))
    assert set(judge(truth, truth, topology=False)) == {"dice", "f1"}


def test_a_prepared_truth_gives_the_same_values_for_many_predictions():
    truth = tube((24, 24, 8), seed=0)[1]
    prepared = metrics.Truth(truth, (0, 1))
    for seed in (1, 2):
        guess = tube((24, 24, 8), seed)[1]
        assert judge(guess, prepared) == judge(guess, truth)


def test_skeletons_and_surfaces_of_a_label_are_computed_once_for_its_content(tmp_path, monkeypatch):
    truth, guess = (tube((24, 24, 8), seed)[1] for seed in (0, 1))
    first = judge(guess, metrics.Truth(truth, (0, 1), kept=tmp_path))
    assert len(list(tmp_path.glob("*.npy"))) == 2
    asked = []
    monkeypatch.setattr(regions, "skeletonize", lambda box: asked.append(box) or skeletonize(box))
    assert judge(guess, metrics.Truth(truth.copy(), (0, 1), kept=tmp_path)) == first
    assert len(asked) == 1  # the prediction's
    judge(guess, metrics.Truth(guess, (0, 1), kept=tmp_path))
    assert len(list(tmp_path.glob("*.npy"))) == 4


def test_masks_of_different_shape_are_refused():
    with pytest.raises(ValueError, match="differ in shape"):
        judge(np.zeros((2, 2, 2), np.uint8), np.zeros(SHAPE, np.uint8))


def test_small_solid_bodies_that_thinning_erases_keep_a_skeleton():
    cube = block(slice(4, 6), slice(4, 6), slice(4, 6))
    assert judge(cube, cube)["cldice"] == 1


@settings(max_examples=60, deadline=None)
@given(masks, masks)
def test_distances_agree_with_a_search_over_all_pairs_of_surface_voxels(guess, truth):
    values = judge(guess, truth, spacing=(1.0, 2.0, 3.0))
    if not guess.any() or not truth.any():
        return
    surfaces = [np.argwhere(m & ~binary_erosion(m)) * (1, 2, 3) for m in (guess > 0, truth > 0)]
    pairs = cdist(*surfaces)
    out, back = pairs.min(axis=1), pairs.min(axis=0)
    assert values["masd"] == pytest.approx((out.mean() + back.mean()) / 2)
    assert values["hd95"] == pytest.approx(max(np.percentile(out, 95), np.percentile(back, 95)))


@settings(max_examples=60, deadline=None)
@given(masks, masks, st.sampled_from([0.5, 1.0, 1.5, 2.0]))
def test_overlap_and_surface_agreement_are_those_of_their_slow_definitions(guess, truth, tolerance):
    values = judge(guess, truth, config=EvaluationConfig(nsd_tolerance=tolerance))
    a, b = ({tuple(voxel) for voxel in np.argwhere(mask)} for mask in (guess, truth))
    if not a or not b:
        return
    assert values["dice"] == pytest.approx(2 * len(a & b) / (len(a) + len(b)))
    precision, recall = len(a & b) / len(a), len(a & b) / len(b)
    f1 = 2 * precision * recall / (precision + recall) if precision else 0
    assert values["f1"] == pytest.approx(f1)
    edges = [np.argwhere(m & ~binary_erosion(m)) for m in (guess > 0, truth > 0)]
    pairs = cdist(*edges)
    close = (pairs.min(axis=1) <= tolerance).sum() + (pairs.min(axis=0) <= tolerance).sum()
    assert values["nsd"] == pytest.approx(close / sum(pairs.shape))


@pytest.mark.parametrize("seed", range(4))
def test_cldice_is_the_harmonic_mean_of_the_shares_of_skeletons_inside(seed):
    guess, truth = (tube((24, 24, 10), s)[1] > 0 for s in (seed, seed + 1))
    inside = [
        np.logical_and(skeletonize(a), b).sum() / skeletonize(a).sum()
        for a, b in ((guess, truth), (truth, guess))
    ]
    expected = 2 / sum(1 / share for share in inside) if all(inside) else 0
    values = judge(guess.astype(np.uint8), truth.astype(np.uint8))
    assert values["cldice"] == pytest.approx(expected)
    masd = min(values["masd"], CONFIG.masd_cap)
    assert values[names.PRIMARY] == pytest.approx(0.5 * expected + 0.5 * (1 - masd / 50))


def drawn(seed):
    """Two masks of up to four classes: smooth bodies up to the border, speckle, or nothing."""
    rng = np.random.default_rng(seed)
    n_classes = 2 + seed % 3
    shape = (int(rng.integers(5, 8)), int(rng.integers(4, 7)), int(rng.integers(2, 5)))
    pair = []
    for kind in rng.choice(["bodies", "bodies", "speckle", "empty"], 2):
        noise = rng.random(shape) if kind == "speckle" else gaussian_filter(rng.random(shape), 1)
        place = np.argsort(np.argsort(noise, axis=None)).reshape(shape) / noise.size
        mask = np.where(place > rng.uniform(0.5, 0.9), rng.integers(1, n_classes), 0)
        if n_classes > 2 and kind != "empty":
            mask[place < rng.uniform(0, 0.2)] = n_classes - 1
        pair.append((mask * (kind != "empty")).astype(np.uint8))
    if seed % 5 == 0:
        pair[1][rng.random(shape) < 0.2] = IGNORED
    return pair[0], pair[1], (0, 2, 5, 7)[:n_classes]


def defined(values):
    return {name: value for name, value in values.items() if value is not None}


def test_a_second_implementation_agrees_on_200_pairs_of_masks():
    """To 1e-9 of each value: several classes, empty, at the border, unannotated, anisotropic."""
    spacings = ((1.0, 1.0, 1.0), (0.5, 0.7, 2.5))
    config = EvaluationConfig(masd_cap=3, nsd_tolerance=1.5)
    for seed in range(200):
        guess, truth, classes = drawn(seed)
        spacing = spacings[seed % 2]
        found = judge(guess, truth, classes, config=config, spacing=spacing)
        expected = slow_metrics.judge(guess, truth, classes, spacing, 3, 1.5)
        assert defined(found) == pytest.approx(defined(expected), rel=1e-9, abs=1e-9), seed
        assert found.keys() == expected.keys()


@settings(max_examples=40, deadline=None)
@given(masks, masks)
def test_judging_is_symmetric_and_scores_lie_between_0_and_1(guess, truth):
    values, swapped = judge(guess, truth), judge(truth, guess)
    assert values == pytest.approx(swapped)
    scores = [values[name] for name in ("dice", "cldice", "nsd", "f1", names.PRIMARY)]
    assert all(0 <= score <= 1 for score in scores)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_monai_agrees_on_real_shapes():
    from monai.metrics import (
        DiceHelper,
        compute_average_surface_distance,
        compute_hausdorff_distance,
        compute_surface_dice,
    )
    from torch import tensor

    guess, truth = (tube((24, 24, 10), seed)[1] for seed in (3, 4))
    pair = [tensor(mask[None, None].astype(np.float32)) for mask in (guess, truth)]
    there = float(compute_average_surface_distance(pair[0], pair[1], include_background=True))
    back = float(compute_average_surface_distance(pair[1], pair[0], include_background=True))
    hd95 = float(
        compute_hausdorff_distance(pair[0], pair[1], include_background=True, percentile=95)
    )
    values = judge(guess, truth)
    assert values["masd"] == pytest.approx((there + back) / 2, abs=1e-6)
    assert values["hd95"] == pytest.approx(hd95, abs=1e-6)
    nsd = float(
        compute_surface_dice(pair[0], pair[1], class_thresholds=[1.0], include_background=True)
    )
    assert values["nsd"] == pytest.approx(nsd, abs=1e-6)
    dice = float(DiceHelper(include_background=True, softmax=False)(*pair)[0])
    assert values["dice"] == pytest.approx(dice, abs=1e-6)
