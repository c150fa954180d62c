"""Bias and limits of agreement are true, and absent where they would mean nothing."""

from __future__ import annotations

import numpy as np
import pytest

from minivess.analysis import agreement
from minivess.config import EvaluationConfig
from minivess.contracts import Measured

CONFIG = EvaluationConfig()


def rows(pairs, group=None):
    return [
        Measured(
            case=f"v{place}", group=group, label=1, measure="length_density", truth=truth,
            predicted=said, unit="micron",
        )
        for place, (truth, said) in enumerate(pairs)
    ]  # fmt: skip


def drawn(n, rng):
    truth = rng.uniform(1, 2, n)
    return list(zip(truth, truth + 0.1 + 0.05 * rng.standard_normal(n), strict=True))


def test_bias_and_limits_are_the_mean_and_196_deviations_around_it():
    pairs = drawn(12, np.random.default_rng(0))
    (found,) = agreement.agree(rows(pairs), CONFIG)
    gaps = np.array([said - truth for truth, said in pairs])
    assert found.bias.mean == pytest.approx(gaps.mean())
    assert found.bias.lower < 0.1 < found.bias.upper
    lower, upper = (np.mean(limit) for limit in found.limits)
    assert (lower, upper) == pytest.approx(
        gaps.mean() + np.array([-1, 1]) * 1.96 * gaps.std(ddof=1)
    )


def test_intervals_of_the_limits_hold_the_true_limit_as_often_as_they_say():
    rng, held = np.random.default_rng(1), 0
    config = EvaluationConfig(bootstrap_n=100)
    for _ in range(300):
        (found,) = agreement.agree(rows(drawn(12, rng)), config)
        held += found.limits[1][0] <= 0.1 + 1.96 * 0.05 <= found.limits[1][1]
    assert held / 300 >= 0.92


def test_an_undefined_value_is_left_out_and_counted_and_one_group_has_no_limits():
    pairs = [*drawn(9, np.random.default_rng(2)), (1.0, None)]
    (found,) = agreement.agree(rows(pairs), CONFIG)
    assert (found.bias.n, found.bias.n_undefined) == (9, 1)
    (alone,) = agreement.agree(rows(pairs, group="mouse1"), CONFIG)
    assert alone.limits is None
    (nothing,) = agreement.agree(rows([(1.0, None)]), CONFIG)
    assert (nothing.truth, nothing.bias.mean, nothing.limits) == (None, None, None)
