from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from minivess.analysis import champion, paired
from minivess.config import ExperimentConfig

CONFIG = ExperimentConfig()
RNG = np.random.default_rng(0)


@pytest.mark.parametrize("n", [5, 9, 12])
def test_the_sign_flip_test_is_that_of_scipy(n):
    gaps = RNG.normal(0.5, 1, n)
    reference = stats.permutation_test((gaps,), np.sum, permutation_type="samples", n_resamples=1e5)
    assert paired.sign_flip(gaps) == pytest.approx(reference.pvalue)


def test_many_units_are_tested_by_random_flips_that_repeat():
    gaps = RNG.normal(0.3, 1, 40)
    assert paired.sign_flip(gaps) == paired.sign_flip(gaps)
    assert paired.sign_flip(gaps) == pytest.approx(stats.wilcoxon(gaps).pvalue, abs=0.05)


@pytest.mark.parametrize(("sums", "p_value"), [([], None), ([0.1], None), ([0.0] * 6, 1.0)])
def test_a_single_unit_has_no_p_value_and_equal_scores_have_one_of_1(sums, p_value):
    assert paired.sign_flip(np.array(sums)) == p_value


def test_holm_corrects_for_the_defined_comparisons_and_keeps_their_order():
    assert paired.holm([0.01, 0.04, None, 0.03]) == pytest.approx([0.03, 0.06, None, 0.06])
    assert paired.holm([]) == []


def test_an_effect_has_the_interval_of_the_noncentral_t_distribution():
    gaps = RNG.normal(0.5, 1, 12)
    found = paired.effect(gaps, CONFIG.evaluation)
    t = gaps.mean() / gaps.std(ddof=1) * np.sqrt(12)
    ends = [stats.nct.cdf(t, 11, end * np.sqrt(12)) for end in (found.lower, found.upper)]
    assert ends == pytest.approx([0.975, 0.025], abs=1e-4)


@pytest.mark.parametrize("gaps", [[0.1] * 8, [0.1, 0.2, 0.3]])
def test_equal_differences_and_few_volumes_have_no_effect_size(gaps):
    assert paired.effect(np.array(gaps), CONFIG.evaluation) is None


def test_volumes_of_one_group_count_once(judged):
    groups = [name for name in "abcde" for _ in range(4)]
    good = judged("good", RNG.uniform(0.7, 0.8, 20).tolist(), groups=groups)
    poor = judged("poor", RNG.uniform(0.5, 0.6, 20).tolist(), groups=groups)
    found = paired.compare(good, poor, CONFIG)
    assert (found.difference.n, found.difference.n_units, found.better) == (20, 5, 5)
    assert found.p_value == 2 / 2**5


def test_families_without_a_common_value_are_compared_with_nothing_said(judged):
    found = paired.compare(judged("a", [None, None]), judged("b", [0.1, 0.2]), CONFIG)
    assert (found.difference.mean, found.p_value, found.effect, found.tied) == (
        None, None, None, True,
    )  # fmt: skip


def test_a_comparison_turned_around_is_that_of_the_other_order(judged):
    a, b = judged("a", [0.5, 0.6, 0.9, 0.7, 0.65]), judged("b", [0.4, 0.7, 0.7, 0.6, 0.3])
    there, back = paired.compare(a, b, CONFIG), paired.compare(b, a, CONFIG)
    assert there.turned().difference.mean == pytest.approx(back.difference.mean)
    assert (there.turned().better, there.turned().p_value) == (back.better, back.p_value)
    assert there.turned().effect.lower == pytest.approx(back.effect.lower)


def test_of_a_distance_the_lower_is_better(judged):
    config = ExperimentConfig.model_validate({"analysis": {"metric": "masd"}})
    near, far = judged("near", [0.9, 0.8, 0.9]), judged("far", [0.5, 0.6, 0.4])
    assert paired.compare(near, far, config).better == 3
    chosen = champion.choose([far, near], config, {"near": "run", "far": "run"})
    assert (chosen.family, chosen.metric) == ("near", "masd")
    assert "lowest mean masd" in chosen.reason
    assert "It leads the runner-up far by 3.667 (" in chosen.reason


def test_a_family_is_not_chosen_for_distances_that_it_lacks(judged):
    """The one that misses the hardest volume has no distance there, and so a better mean."""
    config = ExperimentConfig.model_validate({"analysis": {"metric": "masd"}})
    whole = judged("whole", [0.9, 0.9, 0.9, 0.2])
    misses = judged("misses", [0.8, 0.8, 0.8, None])
    found = champion.choose([whole, misses], config, {"whole": "run", "misses": "run"})
    assert found.family == "whole"


def test_seed_noise_is_that_between_seeds_of_one_network_and_loss(judged, member):
    families = [judged("tiny_a", [0.7] * 4), judged("tiny_a_s43", [0.8] * 4)]
    models = [member(one.name, 0, ("x",), ("vol00",)) for one in families]
    expected = np.sqrt(2) * np.std([0.7, 0.8], ddof=1)
    assert paired.seed_noise(families, models, "dice") == pytest.approx(expected)
    assert paired.seed_noise(families[:1], models[:1], "dice") is None


# --- the choice made again ------------------------------------------------------------------


def test_of_equal_families_the_picked_one_is_expected_to_be_worse_than_it_looks(judged):
    families = [judged(f"f{k}", RNG.normal(0.8, 0.05, 10).tolist()) for k in range(6)]
    chosen = champion.choose(families, CONFIG, {one.name: "run" for one in families})
    again = champion.select_again(families, CONFIG)
    assert again.expected < chosen.value
    assert sum(again.first.values()) == pytest.approx(1)
    assert max(again.first.values()) < 0.9


def test_a_clear_winner_is_chosen_again_and_loses_nothing(judged):
    families = [judged("good", [0.9, 0.91, 0.92, 0.93]), judged("poor", [0.5, 0.51, 0.5, 0.5])]
    again = champion.select_again(families, CONFIG)
    assert again.chosen == {"good": 1.0, "poor": 0.0}
    assert again.expected == pytest.approx(0.915)


def test_two_families_on_two_volumes_are_a_choice_that_can_be_made_again(judged):
    families = [judged("good", [0.9, 0.91]), judged("poor", [0.5, 0.51])]
    again = champion.select_again(families, CONFIG)
    assert again.chosen == {"good": 1.0, "poor": 0.0}


def test_without_a_choice_or_with_one_unit_there_is_nothing_to_choose_again(judged):
    assert champion.select_again([judged("one", [0.9, 0.8])], CONFIG) is None
    assert champion.select_again([judged("a", [0.9]), judged("b", [0.8])], CONFIG) is None


def test_the_better_mean_can_be_asked_to_win_whatever_its_size(judged):
    families = [
        judged("big", [0.90, 0.80, 0.70, 0.91], parameters=9000),
        judged("small", [0.80, 0.90, 0.71, 0.89], parameters=10),
    ]
    ids = {"big": "run", "small": "run"}
    config = ExperimentConfig.model_validate({"analysis": {"ties": "mean"}})
    assert champion.choose(families, CONFIG, ids).family == "small"
    assert champion.choose(families, config, ids).family == "big"
