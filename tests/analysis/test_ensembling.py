from __future__ import annotations

import numpy as np
import pytest
import torch

from minivess import inference, networks
from minivess.analysis import ensembling, greedy, pipeline, predictions
from minivess.analysis.ensembling import Ensemble
from minivess.config import ExperimentConfig
from minivess.evaluation import metrics
from minivess.formats import volume

pytestmark = pytest.mark.slow
NAMES = ("tiny_a", "tiny_bb", "tiny_ccc")


def config(*ensembles, **analysis):
    return ExperimentConfig.model_validate({"analysis": {"ensembles": ensembles, **analysis}})


@pytest.fixture
def members(two_folds):
    return [model for name in NAMES for model in two_folds(name)]


def judged(members, cases, tmp_path, **combinations):
    found = predictions.out_of_fold(
        members, cases, config(), tmp_path / "cache", combinations=combinations
    )
    return {
        name: {one.metrics.case: predictions.read_mask(one.mask) for one in of}
        for name, of in found.predictions.items()
    }


def test_a_majority_vote_takes_the_class_that_most_families_say(members, cases, tmp_path):
    alone = {name: Ensemble((name,)) for name in NAMES}
    masks = judged(members, cases, tmp_path, vote=Ensemble(NAMES, "vote"), **alone)
    for case in cases:
        votes = np.sum([masks[name][case] for name in NAMES], axis=0)
        np.testing.assert_array_equal(masks["vote"][case], votes >= 2)


def test_tied_votes_go_to_the_higher_mean_probability(members, cases, tmp_path):
    both = NAMES[:2]
    masks = judged(members, cases, tmp_path, vote=Ensemble(both, "vote"), mean=Ensemble(both))
    for case in cases:
        np.testing.assert_array_equal(masks["vote"][case], masks["mean"][case])


def test_a_soup_is_one_network_of_mean_weights_for_each_fold(members, cases, tmp_path):
    masks = judged(members, cases, tmp_path, soup=Ensemble(NAMES, "soup"))
    of_fold = [one for one in members if one.spec.fold.index == 0]
    states = [torch.load(one.checkpoint)["weights"] for one in of_fold]
    spec = of_fold[0].spec
    network = networks.initial(spec.network, seed=0)
    network.load_state_dict({k: torch.stack([s[k] for s in states]).mean(0) for k in states[0]})
    image, _, _ = volume.load(cases["vol00"], label_map={}, resampling=config().data.resampling)
    said = inference.Predictor.of(spec.network, spec.window, network.eval()).probabilities(image)
    assert (masks["soup"]["vol00"] == inference.mask(said)).mean() > 0.999


def test_ensembles_that_cannot_be_made_are_said(two_folds, member):
    two = [*two_folds("tiny_a"), *two_folds("tiny_bb")]
    found, notes = ensembling.plan(two, config("mean", "vote", "soup"))
    assert set(found) == {"tiny_a", "tiny_bb", "mean_all", "soup_all"}
    assert notes == ["vote_all was not made: a majority needs 3 voters, and there are 2."]
    batch = [
        one.replace(spec=one.spec.replace(network=one.spec.network.replace(norm="batch")))
        for one in two
    ]
    assert "batch norm" in ensembling.plan(batch, config("soup"))[1][0]
    other = member("tiny_dddd", 0, ("vol00", "vol02"), ("vol01", "vol03"))
    assert "would have seen" in ensembling.plan([*two, other], config("soup"))[1][0]


def test_families_of_one_loss_are_combined_across_models(member):
    models = [member(name, 0, ("x",), ("vol00",)) for name in ("tiny_a_1", "tiny_b_1", "big_a_1")]
    models[2] = models[2].replace(spec=models[2].spec.replace(model="big"))
    found, _ = ensembling.plan(models, config("mean"))
    assert found["mean_a"].families == ("tiny_a_1", "big_a_1")


def test_a_greedy_choice_for_a_fold_is_made_on_the_other_folds(members, cases, tmp_path):
    def chosen():
        predictor = predictions.OutOfFoldPredictor.of(members, config(), tmp_path / "cache", {})
        return greedy.choose(predictor, cases.values())

    before = chosen()
    for case in ("vol00", "vol01"):
        label = volume.read_volume(cases[case].label)
        volume.write_mask(cases[case].label, np.zeros_like(label.array), like=label)
    assert chosen().by_fold[0] == before.by_fold[0]
    assert set(before.families) <= set(NAMES)


def test_without_a_second_fold_there_is_no_greedy_choice(members, cases, tmp_path):
    first = [one for one in members if one.spec.fold.index == 0]
    predictor = predictions.OutOfFoldPredictor.of(first, config(), tmp_path / "cache", {})
    assert greedy.choose(predictor, cases.values()) is None


def test_nothing_is_predicted_twice_and_lost_predictions_change_nothing(
    members, cases, profile, tmp_path, monkeypatch
):
    calls = []
    real = inference.Predictor.probabilities

    def counted(self, image):
        calls.append(1)
        return real(self, image)

    monkeypatch.setattr(inference.Predictor, "probabilities", counted)
    asked = config("mean", "vote", "greedy")

    def run(folder):
        return pipeline.analyse(
            members, cases, profile(4), asked, tmp_path / folder, cache=tmp_path / "cache"
        ).result

    first = run("one")
    assert len(calls) == len(NAMES) * len(cases)
    for path in (tmp_path / "cache").rglob("metrics.json"):
        path.unlink()
    assert run("two") == first
    assert len(calls) == len(NAMES) * len(cases)
    for path in (tmp_path / "cache").rglob("*.*"):
        path.unlink()
    assert run("three") == first
    assert {one.name for one in first.ensembles} == {"mean_all", "vote_all", "greedy"}


SPLIT = ((("vol00",), ("vol01",)), (("vol01",), ("vol00",)))


def test_a_soup_of_folds_is_judged_on_the_held_out_test_set_alone(member, cases, profile, tmp_path):
    members = [
        member("tiny_a", index, *sides, test=("vol02", "vol03"))
        for index, sides in enumerate(SPLIT)
    ]
    found = pipeline.analyse(members, cases, profile(4), config("soup"), tmp_path / "out").result
    soup = next(one for one in found.test if one.how == "fold_soup")
    assert (soup.name, soup.members, found.ensembles) == ("fold_soup_tiny_a", ("tiny_a",), ())
    assert [one.case for one in soup.volumes] == ["vol02", "vol03"]
    assert soup.trainable_parameters == members[0].trainable_parameters
    spec, states = members[0].spec, [torch.load(one.checkpoint)["weights"] for one in members]
    network = networks.initial(spec.network, seed=0)
    network.load_state_dict({k: torch.stack([s[k] for s in states]).mean(0) for k in states[0]})
    image, label, _ = volume.load(cases["vol02"], label_map={}, resampling=config().data.resampling)
    said = inference.Predictor.of(spec.network, spec.window, network.eval()).probabilities(image)
    judged = metrics.judge(inference.mask(said), label, classes=(0, 1), config=config().evaluation)
    assert soup.volumes[0].values["dice"] == pytest.approx(judged["dice"], abs=2e-3)
    page = (tmp_path / "out" / "report" / "report.html").read_text()
    assert "fold_soup_tiny_a" in page.partition('id="test"')[2].partition("</table>")[0]


def test_a_soup_of_folds_that_cannot_be_judged_is_said(two_folds, member):
    seen = ensembling.across_folds(two_folds("tiny_a"), config("soup"))
    assert seen[0] == {}
    assert "training.test_fraction=0.2 keeps some unseen" in seen[1][0]
    assert ensembling.across_folds(two_folds("tiny_bb"), config("mean")) == ({}, [])
    alone = [member("tiny_ccc", 0, *SPLIT[0], test=("vol02",))]
    assert "one fold" in ensembling.across_folds(alone, config("soup"))[1][0]
