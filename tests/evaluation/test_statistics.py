"""Bootstrap intervals."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest

from minivess.config import EvaluationConfig
from minivess.evaluation import statistics

CONFIG = EvaluationConfig(bootstrap_n=2000)
VALUES = list(np.random.default_rng(0).normal(0.8, 0.05, 30))


def test_the_interval_holds_the_mean_and_is_a_function_of_its_seed():
    found = statistics.interval(VALUES, config=CONFIG)
    assert found.lower < found.mean < found.upper
    assert found == statistics.interval(VALUES, config=CONFIG)
    assert found != statistics.interval(VALUES, config=CONFIG, seed=1)


@pytest.mark.parametrize("method", ["studentized", "percentile"])
def test_the_interval_has_the_width_that_theory_expects(method):
    found = statistics.interval(VALUES, config=CONFIG.model_copy(update={"ci_method": method}))
    expected = 2 * 2.05 * np.std(VALUES, ddof=1) / np.sqrt(len(VALUES))
    assert found.upper - found.lower == pytest.approx(expected, rel=0.1)
    assert (found.method, found.called) == (method, "95 % CI")


def test_the_error_of_a_mean_is_that_of_textbooks_and_groups_of_equal_values_have_none():
    values, ones = np.array(VALUES), np.ones(len(VALUES))
    mean, error = statistics.mean_and_error(values, ones)
    assert mean == pytest.approx(values.mean())
    assert error == pytest.approx(values.std(ddof=1) / np.sqrt(len(values)))
    sizes = np.array([1.0, 2.0, 5.0])
    assert statistics.mean_and_error(0.5 * sizes, sizes) == (0.5, pytest.approx(0, abs=1e-12))


def test_holm_multiplies_by_the_number_of_hypotheses_left_and_stays_below_1():
    assert statistics.holm([0.04, 0.01, 0.03, 0.9]) == pytest.approx([0.09, 0.04, 0.09, 0.9])
    assert statistics.holm([0.6, 0.7]) == [1.0, 1.0]


def test_studentized_intervals_of_five_values_hold_their_level():
    rng = np.random.default_rng(3)
    held: dict[Literal["studentized", "percentile"], int] = {"studentized": 0, "percentile": 0}
    for _ in range(300):
        values = list(1 - rng.gamma(2, 0.05, 5))  # skewed as Dice is; the mean is 0.9
        for method in held:
            config = EvaluationConfig(ci_method=method, bootstrap_n=400)
            found = statistics.interval(values, config=config, within=(0, 1))
            held[method] += found.lower <= 0.9 <= found.upper
    assert held["studentized"] / 300 > 0.91 > 0.87 > held["percentile"] / 300


@pytest.mark.parametrize("n", [2, 3, 4])
def test_few_values_have_a_range_that_is_not_called_an_interval(n):
    found = statistics.interval(VALUES[:n], config=CONFIG)
    assert (found.lower, found.upper) == (min(VALUES[:n]), max(VALUES[:n]))
    assert (found.called, found.level) == (f"range of {n}", 1 - 2 / 2**n)


def test_an_interval_stays_where_its_metric_can_be():
    values = [1.0, 1.0, 1.0, 1.0, 0.2]
    assert statistics.interval(values, config=CONFIG, within=(0, 1)).upper == 1
    distances = statistics.interval(
        [0, 0, 0, 0, 3], config=CONFIG, within=statistics.range_of("masd_class1")
    )
    assert distances.lower == 0
    assert distances.upper > 1
    assert statistics.range_of("dice_class2") == (0, 1)
    same = statistics.interval([0.5] * 6, config=CONFIG)
    assert (same.lower, same.upper) == (0.5, 0.5)


@pytest.mark.parametrize("groups", [None, ["a", "b", "c", "d", "e", "f"] * 5])
def test_the_order_of_the_volumes_changes_no_bound(groups):
    found = statistics.interval(VALUES, config=CONFIG, groups=groups)
    back = statistics.interval(VALUES[::-1], config=CONFIG, groups=groups and groups[::-1])
    assert (found.lower, found.upper) == pytest.approx((back.lower, back.upper), abs=1e-12)


def test_a_higher_level_gives_a_wider_interval():
    wide = statistics.interval(VALUES, config=EvaluationConfig(ci_level=0.99))
    narrow = statistics.interval(VALUES, config=EvaluationConfig(ci_level=0.8))
    assert wide.level == 0.99
    assert wide.lower < narrow.lower < narrow.upper < wide.upper


def test_undefined_values_are_left_out_and_counted_apart():
    found = statistics.interval([*VALUES, None, float("nan")], config=CONFIG)
    assert (found.n, found.n_undefined) == (len(VALUES), 2)
    assert found.replace(n_undefined=0) == statistics.interval(VALUES, config=CONFIG)


def test_nothing_defined_has_no_mean_and_a_single_volume_has_no_interval():
    nothing = statistics.interval([None], config=CONFIG)
    assert (nothing.mean, nothing.lower, nothing.n) == (None, None, 0)
    one = statistics.interval([0.5], config=CONFIG)
    assert (one.mean, one.lower, one.upper) == (0.5, None, None)


def test_volumes_of_one_group_are_resampled_together():
    values = [0.5] * 10 + [0.9] * 10
    groups = ["a"] * 10 + ["b"] * 10
    clustered = statistics.interval(values, config=CONFIG, groups=groups)
    assert (clustered.lower, clustered.upper) == (pytest.approx(0.5), pytest.approx(0.9))
    assert (clustered.n, clustered.n_units, clustered.called) == (20, 2, "range of 2")
    alone = statistics.interval(values, config=CONFIG, groups=[None] * 20)
    assert alone == statistics.interval(values, config=CONFIG)
    assert alone.lower > 0.55


def test_a_difference_is_paired_over_volumes():
    better = [value + 0.01 for value in VALUES]
    found = statistics.difference(better, VALUES, config=CONFIG)
    assert (found.lower, found.upper) == (pytest.approx(0.01), pytest.approx(0.01))
    assert statistics.difference([0.5, None], [0.4, 0.1], config=CONFIG).n == 1
