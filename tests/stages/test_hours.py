"""Epochs and folds fitted to the hours that are given."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minivess import config
from minivess.errors import OrchestrationError, PlanError, UsageError
from minivess.home import Home
from minivess.orchestration.session import Session, open_session
from minivess.stages import hours, train
from minivess.stages.plan import plan
from minivess.stages.profile import profile_data

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("stocked")]
WORDS = (
    "training.losses=[dice_ce]", "training.samples_per_volume=1", "training.parallel_cells=1",
    "model.filters=[4,8,16]", "tracking.log_system_metrics=false",
)  # fmt: skip


@pytest.fixture
def opened(make_dataset: Callable[..., Path], home: Home) -> Callable[..., Any]:
    """A session on four volumes, with words as a user types them."""
    root, env = make_dataset(4), config.Environment(home=home.root, prefect_disabled=True)

    def open_one(*words: str) -> Any:
        asked = config.load([], [f"data.root={root}", *WORDS, *words], env)
        return open_session(asked, env, yes=True, words=words)

    return open_one


def test_a_plan_says_what_would_be_fitted_and_for_which_time(opened: Callable[..., Any]) -> None:
    with opened("hours=0.5") as session:
        found, forecast = plan(session), hours.fitted(session, profile_data(session), chain=True)
    assert found["max_epochs"] == forecast.config.training.max_epochs != 100
    cost = found["models"]["dynunet"]["forecast"]
    assert (cost["cells"], found["folds"]) == (3, 3)


def test_epochs_and_folds_follow_the_time_and_stay_the_same(opened: Callable[..., Any]) -> None:
    def fitted(*words: str) -> Session:
        with opened(*words) as session:
            return hours.fitted(session, profile_data(session))

    enough = fitted("hours=0.5")
    assert enough.config.training.folds == 3
    # How fast the machine is decides which hours are too few for ten epochs.
    given, little = 0.002, enough
    while little.config.training.folds == 3:
        given /= 2
        little = fitted(f"hours={given}")
    assert enough.config.training.max_epochs > little.config.training.max_epochs >= 1
    assert little.config.training.folds == 2
    assert fitted(f"hours={given}").config == little.config
    assert fitted().config.training.max_epochs == 100
    with pytest.raises(PlanError, match="too short"):
        fitted("hours=0.0000001")
    with pytest.raises(UsageError, match=r"training\.max_epochs=3"):
        fitted("hours=1", "training.max_epochs=3")


def test_a_training_is_stopped_at_its_limit_with_a_warning_before(
    opened: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(train, "SHORTEST_S", 1.0)
    for words, forecast_h in ((("training.time_limit_s=1",), 5.0), ((), 1e-9)):
        with (
            opened(*words) as session,
            pytest.raises(OrchestrationError, match="so it was stopped") as stopped,
            train.limited(session, forecast_h),
        ):
            time.sleep(60)
        assert stopped.value.remedy.startswith("training.time_limit_s=")
        assert "the same command resumes it" in capsys.readouterr().out


def test_a_training_that_ends_in_time_is_left_alone(
    opened: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(train, "SHORTEST_S", 1.0)
    for words, forecast_h in ((("training.time_limit_s=null",), 1e-9), ((), 5.0), ((), None)):
        with opened(*words) as session, train.limited(session, forecast_h):
            time.sleep(1.2)
    assert "is stopped" not in capsys.readouterr().out
