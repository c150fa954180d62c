"""False alarms and detections of the drift tests, by simulation."""

from __future__ import annotations

import numpy as np
import pytest

from minivess.serving import drift as tests
from minivess.serving.drift import drift

NAMES = ("a", "b", "c", "d", "e", "f")


def alarms(shift: float, *, n: int, trials: int, ties: bool = False) -> float:
    """Share of comparisons that are called drift; one feature is shifted, in deviations."""
    generator = np.random.default_rng(7)
    found = 0
    for _ in range(trials):
        both = generator.normal(size=(n + 20, len(NAMES)))
        both[:, 1] = np.exp(both[:, 0] + 0.3 * both[:, 1])  # skewed, and correlated with a
        if ties:
            both = np.round(both)
        both[n:, 2] += shift
        found += bool(drift(both[:n], both[n:], NAMES).drifted)
    return found / trials


@pytest.mark.slow
@pytest.mark.parametrize("ties", [False, True])
def test_without_drift_an_alarm_is_raised_in_five_of_a_hundred_comparisons_at_most(
    ties: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tests, "PERMUTATIONS", 199)
    # 400 trials at 5 % give more than 28 alarms in one of a hundred such tests.
    assert alarms(0.0, n=12, trials=400, ties=ties) <= 28 / 400
    assert alarms(0.0, n=60, trials=200, ties=ties) <= 17 / 200


def test_a_shift_of_two_deviations_is_found_from_twelve_training_volumes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tests, "PERMUTATIONS", 199)
    assert alarms(2.0, n=12, trials=100) >= 0.8
    assert alarms(1.5, n=60, trials=100) >= 0.9


def test_the_feature_that_drifted_is_named() -> None:
    generator = np.random.default_rng(3)
    reference, new = generator.normal(size=(30, 6)), generator.normal(size=(40, 6))
    new[:, 4] += 2.5
    found = drift(reference, new, NAMES)
    assert "e" in found.drifted
    assert not {"a", "b", "c", "d", "f"} & set(found.drifted)


def test_features_that_never_vary_are_no_drift() -> None:
    assert drift(np.ones((5, 2)), np.ones((20, 2)), ("a", "b")).drifted == ()
    assert drift(np.ones((12, 2)), np.full((20, 2), 2.0), ("a", "b")).drifted
