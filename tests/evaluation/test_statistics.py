"""Bootstrap intervals."""

from __future__ import annotations

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


def test_the_interval_has_the_width_that_theory_expects():
    found = statistics.interval(VALUES, config=CONFIG)
    expected = 2 * 1.96 * np.std(VALUES) / np.sqrt(len(VALUES))
    assert found.upper - found.lower == pytest.approx(expected, rel=0.1)


def test_a_higher_level_gives_a_wider_interval():
    wide = statistics.interval(VALUES, config=EvaluationConfig(ci_level=0.99))
    narrow = statistics.interval(VALUES, config=EvaluationConfig(ci_level=0.8))
    assert wide.level == 0.99
    assert wide.lower < narrow.lower < narrow.upper < wide.upper


def test_undefined_values_are_left_out_and_not_counted():
    found = statistics.interval([*VALUES, None, float("nan")], config=CONFIG)
    assert found == statistics.interval(VALUES, config=CONFIG)
    assert found.n == len(VALUES)


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
    alone = statistics.interval(values, config=CONFIG, groups=[None] * 20)
    assert alone == statistics.interval(values, config=CONFIG)
    assert alone.lower > 0.55


def test_a_difference_is_paired_over_volumes():
    better = [value + 0.01 for value in VALUES]
    found = statistics.difference(better, VALUES, config=CONFIG)
    assert (found.lower, found.upper) == (pytest.approx(0.01), pytest.approx(0.01))
    assert statistics.difference([0.5, None], [0.4, 0.1], config=CONFIG).n == 1
