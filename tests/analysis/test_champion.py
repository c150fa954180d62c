from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minivess.analysis import champion, paired
from minivess.config import ExperimentConfig
from minivess.errors import DataError

CONFIG = ExperimentConfig()
IDS = {"big": "run_big", "small": "run_small", "poor": "run_poor"}


def test_a_clear_lead_wins_whatever_its_size(judged):
    big = judged("big", [0.90, 0.91, 0.92, 0.93, 0.94], parameters=9000)
    small = judged("small", [0.50, 0.52, 0.51, 0.53, 0.50], parameters=10)
    chosen = champion.choose([small, big], CONFIG, IDS)
    assert (chosen.family, chosen.run_id) == ("big", "run_big")
    assert chosen.value == pytest.approx(0.92)
    assert "excludes 0" in chosen.reason


def test_where_the_difference_may_be_zero_fewer_parameters_win(judged):
    big = judged("big", [0.90, 0.80, 0.70, 0.91], parameters=2_500_000)
    small = judged("small", [0.80, 0.90, 0.71, 0.89], parameters=45_300)
    chosen = champion.choose([big, small], CONFIG, IDS)
    assert chosen.family == "small"
    assert "45.3 k" in chosen.reason
    assert "2.5 M" in chosen.reason


def test_between_equal_sizes_the_higher_mean_wins(judged):
    better = judged("big", [0.90, 0.80, 0.70, 0.91])
    worse = judged("small", [0.80, 0.90, 0.71, 0.89])
    chosen = champion.choose([worse, better], CONFIG, IDS)
    assert chosen.family == "big"
    assert "both have 1 k parameters, so the higher mean decides" in chosen.reason


def test_of_equally_small_families_that_are_tied_the_higher_mean_wins(judged):
    big = judged("big", [0.90, 0.80, 0.70, 0.91], parameters=100)
    better = judged("small", [0.80, 0.90, 0.71, 0.89], parameters=50)
    worse = judged("poor", [0.79, 0.90, 0.71, 0.89], parameters=50)
    assert champion.choose([big, worse, better], CONFIG, IDS).family == "small"


def test_the_smaller_of_two_leaders_is_named_with_both_sizes(judged):
    big = judged("big", [0.80, 0.90, 0.71, 0.89], parameters=2000)
    small = judged("small", [0.90, 0.80, 0.70, 0.91], parameters=1000)
    reason = champion.choose([big, small], CONFIG, IDS).reason
    assert "small is the smaller (1 k against 2 k), so the higher mean decides" in reason


def test_a_small_but_clearly_worse_family_does_not_win_by_its_size(judged):
    big = judged("big", [0.90, 0.80, 0.70, 0.91], parameters=100)
    small = judged("small", [0.80, 0.90, 0.71, 0.89], parameters=50)
    poor = judged("poor", [0.1, 0.1, 0.1, 0.1], parameters=1)
    assert champion.choose([poor, small, big], CONFIG, IDS).family == "small"


def test_the_only_family_is_the_champion_and_the_reason_says_so(judged):
    chosen = champion.choose([judged("big", [0.5])], CONFIG, IDS)
    assert "only family" in chosen.reason
    assert "1 volume)" in chosen.reason


def test_a_family_without_any_value_cannot_win(judged):
    poor, big = judged("poor", [None, None]), judged("big", [0.1, 0.2])
    assert champion.choose([poor, big], CONFIG, IDS).family == "big"


def test_no_value_at_all_stops_with_a_remedy(judged):
    with pytest.raises(DataError, match="no champion") as caught:
        champion.choose([judged("poor", [None])], CONFIG, IDS)
    assert "max_epochs" in caught.value.remedy


def test_families_are_compared_on_the_volumes_that_both_judged(judged):
    long, short = judged("big", [0.5, 0.6, 0.7]), judged("small", [0.4, 0.5])
    compared = paired.compare(long, short, CONFIG)
    assert compared.difference.n == 2
    assert compared.difference.mean == pytest.approx(0.1)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(scores=st.lists(st.floats(0, 1), min_size=2, max_size=8), seed=st.integers(0, 3))
def test_the_order_of_the_families_does_not_matter(scores, seed):
    from minivess import names
    from minivess.contracts import Interval, Scores, VolumeMetrics

    def make(name, shift, parameters):
        values = [min(1.0, score + shift) for score in scores]
        return Scores(
            name=name,
            members=(name,),
            trainable_parameters=parameters,
            intervals={
                names.PRIMARY: Interval(
                    mean=sum(values) / len(values),
                    lower=None,
                    upper=None,
                    level=0.95,
                    n=len(values),
                )
            },
            volumes=tuple(
                VolumeMetrics(case=str(place), values={names.PRIMARY: value})
                for place, value in enumerate(values)
            ),
        )

    families = [make("big", 0.02 * seed, 30), make("small", 0.0, 20), make("poor", 0.01, 20)]
    forward = champion.choose(families, CONFIG, IDS)
    backward = champion.choose(families[::-1], CONFIG, IDS)
    assert forward.value == backward.value


def test_deciding_and_asking_need_no_torch():
    code = (
        "import sys; from minivess.analysis import champion, workspace; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'matplotlib', 'duckdb')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
