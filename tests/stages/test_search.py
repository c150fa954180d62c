"""A search goes on after a kill as if there had been none; the winner is an experiment file."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from optuna import TrialPruned

from minivess import config, names
from minivess.config import Dimension, SearchConfig
from minivess.errors import UsageError
from minivess.grid.trials import Trials
from minivess.home import Home
from minivess.orchestration.session import open_session
from minivess.stages import search_page
from minivess.stages.profile import profile_data
from minivess.stages.search import is_over, search
from minivess.stages.train import train
from tests.commands import Command
from tests.faults import deaths

pytestmark = pytest.mark.slow

SPACE: dict[str, Any] = {
    "training.learning_rate": {"low": 1e-4, "high": 1e-1, "log": True},
    "training.warmup_epochs": {"low": 0, "high": 3},
    "training.losses": {"choices": [["dice_ce"], ["cbdice"]]},
}
# Good at first, then one that learns nothing.
WORDS = (
    "configs/experiments/smoke.yaml", "training.max_epochs=8", "training.samples_per_volume=4",
    "training.threads=1", "name=tubes", "search.trials=2", "search.startup_trials=1",
    "search.metric=dice", "search.sampler=random", "search.sampler_seed={seed}",
    "search.space={{training.learning_rate: {{choices: [0.02, 0.0000001]}}}}",
)  # fmt: skip


def tried(file: Path, key: str, *, dying: tuple[int, ...] = ()) -> Trials:
    """Eight trials of a smooth problem; some are in flight when their process dies."""
    wanted = SearchConfig(space=SPACE, trials=8, startup_trials=3)
    study = Trials(file, key, wanted)
    for number in dying:
        while len(study.ended) < number:
            one(study)
        study.ask()
        study = Trials(file, key, wanted)
    while len(study.ended) < wanted.trials:
        one(study)
    return study


def one(study: Trials) -> None:
    suggestion = study.ask()
    settings = suggestion.settings
    study.tell(suggestion, -settings["training.learning_rate"] - settings["training.warmup_epochs"])


def test_a_search_that_died_twice_tries_the_same_as_one_that_did_not(tmp_path: Path) -> None:
    whole = tried(tmp_path / "trials.db", "whole")
    torn = tried(tmp_path / "trials.db", "torn", dying=(2, 6))
    assert torn.rows() == whole.rows()
    assert len(whole.rows()) == 8
    assert len({row["training.learning_rate"] for row in whole.rows()}) == 8
    assert {row["training.warmup_epochs"] for row in whole.rows()} <= {0, 1, 2, 3}
    assert {row["training.losses"][0] for row in whole.rows()} == {"dice_ce", "cbdice"}


def test_what_mattered_is_a_share_of_each_setting_and_needs_trials_that_differ(
    tmp_path: Path,
) -> None:
    study = tried(tmp_path / "trials.db", "whole")
    shares = study.importance()
    assert set(shares) == set(SPACE)
    assert max(shares, key=lambda key: shares[key]) == "training.warmup_epochs"
    assert sum(shares.values()) == pytest.approx(1)
    assert Trials(tmp_path / "trials.db", "none", study.search).importance() == {}
    assert study.explained()[4]["why"] == "proposed by TPE, near the better of the 4 trials before"


def test_of_trials_those_stay_on_the_front_that_no_other_surpasses() -> None:
    rows = [
        {"trial": n, "seconds": seconds, "value": value}
        for n, (seconds, value) in enumerate([(9.0, 0.9), (1.0, 0.5), (4.0, 0.4), (4.0, 0.7)])
    ]
    assert [row["trial"] for row in search_page.front(rows)] == [1, 3, 0]


def test_a_search_is_over_when_its_hours_are_spent(tmp_path: Path) -> None:
    study = tried(tmp_path / "trials.db", "whole")
    for words, over in {
        (): False,
        ("search.hours=1e-9",): True,
        ("search.hours=9",): False,
    }.items():
        assert is_over(config.load([], ["search.trials=9", *words]), study) is over


def test_a_trial_below_the_median_is_pruned_and_counts(tmp_path: Path) -> None:
    wanted = SearchConfig(space=SPACE, trials=3, startup_trials=1)
    study = Trials(tmp_path / "trials.db", "key", wanted)
    good, bad = study.ask(), None
    good.report(0.8, 0)
    study.tell(good, 0.8)
    bad = study.ask()
    with pytest.raises(TrialPruned, match="median"):
        bad.report(0.2, 0)
    study.tell(bad, pruned=True)
    assert [row["state"] for row in study.rows()] == ["complete", "pruned"]
    assert study.best is not None
    assert study.best[:2] == (0, 0.8)


@pytest.mark.parametrize(("words", "what"), [
    ((), "search.space is empty"),
    (("search.space={training.folds: {low: 2, high: 3}}",), "cannot be searched"),
    (("search.space={training.seeds: {choices: [[1]]}}", "training.losses=[focal,dice]"), "losses"),
])  # fmt: skip
def test_what_cannot_be_searched_is_refused(
    words: tuple[str, ...], what: str, home: Home, tmp_path: Path
) -> None:
    env = config.Environment(home=home.root, prefect_disabled=True)
    base = () if any("losses" in word for word in words) else ("training.losses=[dice_ce]",)
    asked = config.load([], [f"data.root={tmp_path}", *base, *words], env)
    with open_session(asked, env) as session, pytest.raises(UsageError, match=what):
        search(session)


@pytest.mark.parametrize(("space", "what"), [
    ("{model.filterz: {choices: [[4, 8]]}}", "search.space.model.filterz"),
    ("{model.dropout: {low: 0.1, high: 3}}", r"search\.space\.model\.dropout=3 .* below 1"),
    ("{training.lerning_rate: {low: 0.1, high: 0.2}}", "training.learning_rate"),
    ("{training.learning_rate: {low: -1, high: 1}}", "learning_rate=-1 is refused"),
    ("{training.warmup_epochs: {choices: [1, soon]}}", r"warmup_epochs='soon' is refused"),
    ("{training.losses: {choices: [[dice_ce], [3]]}}", r"search\.space\.training\.losses"),
])  # fmt: skip
def test_a_space_over_what_is_no_setting_or_value_is_refused_as_it_is_read(
    space: str, what: str
) -> None:
    with pytest.raises(UsageError, match=what):
        config.load([], [f"search.space={space}"])


def seed_of_good_then_bad(folder: Path) -> int:
    """A seed with which the first trial learns and the second does not."""
    space = {"training.learning_rate": Dimension(choices=(0.02, 0.0000001))}
    for seed in range(20):
        wanted = SearchConfig(space=space, trials=2, sampler="random", sampler_seed=seed)
        study = Trials(folder / "seeds.db", str(seed), wanted)
        first = study.ask()
        study.tell(first, 1.0)
        if (first.settings, study.ask().settings) == (
            {"training.learning_rate": 0.02}, {"training.learning_rate": 1e-7},
        ):  # fmt: skip
            return seed
    raise AssertionError


@pytest.mark.usefixtures("stocked")
def test_a_killed_search_goes_on_prunes_and_hands_over_a_file_that_runs(
    make_dataset: Callable[..., Path], home: Home, tmp_path: Path
) -> None:
    seed = seed_of_good_then_bad(tmp_path)
    words = [f"data.root={make_dataset(4)}", *(word.format(seed=seed) for word in WORDS)]
    env = config.Environment(home=home.root, prefect_disabled=True)
    asked = config.load([Path(words[1])], [words[0], *words[2:]], env)
    with open_session(asked, env, yes=True) as session:
        profile_data(session)

    variables = {**os.environ, "MINIVESS_HOME": str(home.root), "PREFECT_DISABLED": "1"}
    # In the first fold of the first trial.
    dying = partial(deaths.main, "minivess.training.cell_folder.write_history", 3)
    killed = Command(("search", *words), variables, tmp_path / "search", main=dying)
    assert killed.wait() == -signal.SIGKILL, killed.err

    with open_session(asked, env, yes=True) as session:
        found = search(session)
        assert [row["state"] for row in found["trials"]] == ["complete", "pruned"]
        assert [row["why"] for row in found["trials"]] == [
            "once more, because its process was killed",
            "drawn at random, as search.sampler=random says",
        ]
        assert "below the median of the others" in found["trials"][1]["end"]
        page = Path(found["page"]).read_text()
        assert found["trials"][1]["end"] in page
        assert "the Pareto front: trials 0." in page
        assert found["best"]["settings"] == {"training.learning_rate": 0.02}
        assert search(session)["reused"][-1] == found["search_run_id"]

    client = MlflowClient(f"sqlite:///{home.database}")
    runs: dict[str, list[Any]] = {}
    for run in client.search_runs(["1", "2", "3"]):
        runs.setdefault(run.info.run_name, []).append(run)
    parent = client.get_run(found["search_run_id"])
    assert parent.data.params["search_sampler"] == "random"
    assert parent.data.params["search_trials"] == "2"
    statuses = {name: [run.info.status for run in runs[name]] for name in ("trial_0", "trial_1")}
    assert statuses == {"trial_0": ["FINISHED", "KILLED"], "trial_1": ["KILLED"]}
    assert runs["trial_1"][0].data.tags["error_type"] == "TrialPruned"
    assert {run.data.params["learning_rate"] for run in runs["trial_0"]} == {"0.02"}
    nested = [client.get_run(row["run_id"]) for row in found["trials"]]
    assert {run.data.tags[names.PARENT] for run in nested} == {parent.info.run_id}

    winner = config.load([Path(found["file"])], [], env)
    assert winner.search == SearchConfig()
    with open_session(winner, env, yes=True) as session:
        (family,) = train(session).families
        assert len(session.reused) == 3  # the profile and both folds
        assert family.run_name == "dynunet_dice_ce"
