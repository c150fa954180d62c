from __future__ import annotations

import numpy as np
import pytest
import torch

from minivess import files, inference
from minivess.analysis import ensembling, predictions
from minivess.analysis.ensembling import Ensemble
from minivess.combination import pack, unpack
from minivess.config import ExperimentConfig
from minivess.contracts import IGNORED
from minivess.errors import DataError, PlanError
from minivess.evaluation import metrics
from minivess.formats import volume

pytestmark = pytest.mark.slow

CONFIG = ExperimentConfig()


@pytest.fixture
def judge(cases, tmp_path):
    def run(members, **changes):
        return predictions.out_of_fold(members, cases, CONFIG, tmp_path / "cache", **changes)

    return run


def probabilities(model, case):
    """What one network says of a volume."""
    spec = model.spec
    image, _, _ = volume.load(case, label_map=spec.label_map, resampling=CONFIG.data.resampling)
    return inference.Predictor.of(spec.network, spec.window, model.checkpoint).probabilities(image)


def test_every_volume_is_judged_once_by_the_fold_that_held_it_out(two_folds, cases, judge):
    members = two_folds("tiny_a")
    seen = []
    found = judge(members, on_volume=lambda done, total: seen.append((done, total)))
    judged = found.predictions["tiny_a"]
    assert [one.metrics.case for one in judged] == list(cases)
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    for one, member in zip(judged, [members[0]] * 2 + [members[1]] * 2, strict=True):
        alone = probabilities(member, cases[one.metrics.case])
        np.testing.assert_array_equal(predictions.read_mask(one.mask), inference.mask(alone))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused(two_folds, cases, tmp_path):
    asked = ExperimentConfig.model_validate({"training": {"device": "cuda"}})
    with pytest.raises(PlanError, match=r"training\.device=cuda"):
        predictions.out_of_fold(two_folds("tiny_a"), cases, asked, tmp_path)


def test_only_what_somebody_annotated_is_judged(two_folds, cases, judge):
    for case in cases.values():
        label = volume.read_volume(case.label)
        half = label.array.copy()
        half[8:] = 99
        volume.write_mask(case.label, half, like=label)
    members = [
        one.replace(spec=one.spec.replace(label_map={99: IGNORED})) for one in two_folds("tiny_a")
    ]
    for one in judge(members).predictions["tiny_a"]:
        truth = volume.read_volume(cases[one.metrics.case].label).array[:8]
        guess = predictions.read_mask(one.mask)[:8]
        alone = metrics.judge(guess, truth, classes=(0, 1), config=CONFIG.evaluation, counts=True)
        assert one.metrics.values == alone


def test_probabilities_sum_to_one_in_the_shape_of_the_volume(two_folds, cases):
    found = probabilities(two_folds("tiny_a")[0], cases["vol00"])
    assert found.shape == (2, 16, 16, 5)
    np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-5)


def test_a_planted_leak_stops_the_analysis(member, judge):
    leaking = member("tiny_a", 0, ("vol00", "vol02"), ("vol00", "vol01"))
    with pytest.raises(DataError, match="Leak: tiny_a fold 0 trained on vol00"):
        judge([leaking])


def test_a_test_volume_among_the_training_volumes_is_a_leak(member, judge):
    with pytest.raises(DataError, match="Leak"):
        judge([member("tiny_a", 0, ("vol00", "vol02"), ("vol01",), test=("vol02",))])


def test_a_group_on_both_sides_is_a_leak(two_folds, cases, tmp_path):
    grouped = {
        name: case.replace(group="mouse1" if name in ("vol00", "vol02") else None)
        for name, case in cases.items()
    }
    with pytest.raises(DataError, match="both belong to group 'mouse1'"):
        predictions.out_of_fold(two_folds("tiny_a"), grouped, CONFIG, tmp_path)


def test_a_copy_of_a_training_volume_is_not_judged_and_is_reported(two_folds, judge):
    contents = {"vol00": "same", "vol01": "b", "vol02": "same", "vol03": "d"}
    found = judge(two_folds("tiny_a"), contents=contents)
    assert [one.metrics.case for one in found.predictions["tiny_a"]] == ["vol01", "vol03"]
    assert found.skipped == {"vol00": ["tiny_a"], "vol02": ["tiny_a"]}


def test_a_missing_fold_leaves_its_volumes_out(two_folds, judge):
    found = judge(two_folds("tiny_a")[:1])
    assert [one.metrics.case for one in found.predictions["tiny_a"]] == ["vol00", "vol01"]
    assert set(found.skipped) == {"vol02", "vol03"}


def test_nothing_unseen_stops_with_a_remedy(member, judge):
    with pytest.raises(DataError, match="unseen") as caught:
        judge([member("tiny_a", 0, ("vol00", "vol01", "vol02", "vol03"), ())])
    assert "minivess train" in caught.value.remedy


def test_a_test_volume_is_judged_by_each_fold_alone_and_the_values_are_averaged(
    member, cases, judge, tmp_path
):
    members = [
        member("tiny_a", 0, ("vol00",), ("vol01",), test=("vol03",)),
        member("tiny_a", 1, ("vol01",), ("vol00",), test=("vol03",)),
    ]
    test = {"vol03": cases["vol03"]}
    found, skipped = predictions.by_each_fold(
        members, test, config=CONFIG, cache=tmp_path, combinations={"tiny_a": Ensemble(("tiny_a",))}
    )
    alone = [
        predictions.out_of_fold([one], test, CONFIG, tmp_path).predictions["tiny_a"][0].metrics
        for one in members
    ]
    (averaged,) = found["tiny_a"]
    assert (averaged.case, skipped) == ("vol03", {})
    for name in ("dice", "cldice"):
        assert averaged.values[name] == pytest.approx(np.mean([one.values[name] for one in alone]))


def test_an_ensemble_is_the_mean_probability_of_its_families(two_folds, cases, judge):
    members = two_folds("tiny_a") + two_folds("tiny_bb")
    combinations, _ = ensembling.plan(members, CONFIG)
    found = judge(members, combinations=combinations)
    both = [unpack(pack(probabilities(members[i], cases["vol01"]))) for i in (0, 2)]
    mean = (both[0] + both[1]) / 2
    kept = {one.metrics.case: one.mask for one in found.predictions["mean_all"]}
    np.testing.assert_array_equal(
        predictions.read_mask(kept["vol01"]), inference.mask(mean.astype(np.float32))
    )


def test_what_was_judged_is_not_judged_again(two_folds, cases, judge, tmp_path):
    members = two_folds("tiny_a")
    first = judge(members)
    for case in cases.values():
        case.image.write_bytes(b"gone")
    assert judge(members) == first


def test_half_written_answers_are_made_again(two_folds, judge):
    members = two_folds("tiny_a")
    first = judge(members)
    (first.predictions["tiny_a"][0].mask.parent / "metrics.json").unlink()
    assert judge(members) == first


def test_unlabelled_volumes_are_left_out(two_folds, cases, tmp_path):
    cases["vol03"] = cases["vol03"].replace(label=None)
    found = predictions.out_of_fold(two_folds("tiny_a"), cases, CONFIG, tmp_path)
    assert len(found.predictions["tiny_a"]) == 3


def test_families_of_different_classes_are_not_compared(two_folds, member, judge):
    other = member("tiny_b", 0, ("vol02",), ("vol00",), classes=(0, 5))
    with pytest.raises(DataError, match="cannot be compared"):
        judge([*two_folds("tiny_a"), other])


def test_seeds_are_averaged_apart_from_the_ensemble_of_all(member):
    members = [
        member(name, 0, ("vol02",), ("vol00",)) for name in ("tiny_a_s1", "tiny_a_s2", "tiny_b")
    ]
    plan, notes = ensembling.plan(members, CONFIG)
    assert {name: one.families for name, one in plan.items()} == {
        "tiny_a_s1": ("tiny_a_s1",),
        "tiny_a_s2": ("tiny_a_s2",),
        "tiny_b": ("tiny_b",),
        "mean_tiny_a": ("tiny_a_s1", "tiny_a_s2"),
        "mean_all": ("tiny_a_s1", "tiny_a_s2", "tiny_b"),
    }
    assert not notes


def test_no_ensembles_are_made_where_none_are_asked_for(member):
    config = ExperimentConfig.model_validate({"analysis": {"ensembles": ()}})
    members = [member(name, 0, ("vol02",), ("vol00",)) for name in ("tiny_a", "tiny_b")]
    assert set(ensembling.plan(members, config)[0]) == {"tiny_a", "tiny_b"}


def test_an_ensemble_costs_the_parameters_of_all_its_families(member, judge, two_folds):
    members = two_folds("tiny_a") + two_folds("tiny_bb")
    found = judge(members, combinations={"both": Ensemble(("tiny_a", "tiny_bb"))})
    summed = ensembling.judged(
        "both",
        Ensemble(("tiny_a", "tiny_bb")),
        [one.metrics for one in found.predictions["both"]],
        members,
        CONFIG.evaluation,
    )
    assert summed.trainable_parameters == 2 * members[0].trainable_parameters
    assert summed.intervals["dice"].n == 4
    assert (
        files.read_json(found.predictions["both"][0].mask.parent / "metrics.json")["case"]
        == "vol00"
    )
