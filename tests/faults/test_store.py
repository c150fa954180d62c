"""Nothing that happens to MLflow loses, doubles or disorders a value, or holds training up."""

from __future__ import annotations

import json
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest

from bench import faults
from minivess import config, files
from minivess.config import TrackingConfig
from minivess.home import Home, open_home
from minivess.tracking.run.dead_runs import settle_runs
from minivess.tracking.store.store import open_store
from tests.commands import Command
from tests.faults import deaths, laws
from tests.faults.limits import fill, small_disk

pytestmark = pytest.mark.slow


def test_a_storm_of_faults_loses_nothing_and_doubles_nothing(tmp_path: Path, blank: Path) -> None:
    shutil.copy(blank, tmp_path / "server.db")
    given = faults.plan(24, seed=6, real=1)
    report = faults.storm(tmp_path, given, 6, print)
    assert sum(report.faults.values()) >= 22, report
    assert (report.lost, report.doubled, report.disordered, report.files_lost) == (0, 0, 0, 0)
    assert (report.runs_doubled, report.unfinished) == (0, 0), report
    assert report.values == report.runs * faults.STEPS * 10
    # A machine that pauses between two instructions is no call that waits: the median counts.
    usual_s = statistics.median(report.calls_us) * len(report.calls_us) / 1e6
    assert usual_s < 0.005 * report.trained_s, report
    assert max(report.calls_us) < 1e6, report


def test_an_outage_within_a_command_is_said_once_and_its_result_is_published_at_the_end(
    make_dataset: Callable[..., Path], home: Home, tmp_path: Path, blank: Path
) -> None:
    shutil.copy(blank, tmp_path / "server.db")
    words = [str(make_dataset(4)), str(home.root), str(tmp_path)]
    done = Command(words, config.child_environment(), home.root / "outage", main=deaths.outage)
    assert done.wait() == 0, done.err
    said = done.out + done.err
    assert "Retrying" not in said
    assert said.count("Work continues") <= 2, said


def test_a_disk_that_fills_up_ends_a_training_in_one_paragraph_and_is_its_runs_cause(
    make_dataset: Callable[..., Path], tmp_path: Path, stock: Callable[[Home], None]
) -> None:
    with small_disk(tmp_path / "disk", 60) as disk:
        home = open_home(disk / "home")
        stock(home)
        words = ("flows=[profile,train]", "training.max_epochs=2000", "name=tubes")
        training = command(make_dataset(4), home, *words)
        training.wait_for("epoch 2/")
        filler = fill(disk)
        assert training.wait() == 1
        told = training.err.splitlines()
        assert "Traceback" not in training.err
        assert len(told) < 10, told
        assert told[-2].startswith(f"The disk has no room left for {home.cells}")
        filler.unlink()
        store = open_store(home, TrackingConfig())
        settle_runs(store)
        ends = {run.name: (run.status, run.tags.get("error_type")) for run in store.search()}
        assert ends.pop("tubes") == ("FINISHED", None)
        assert set(ends.values()) == {("FAILED", "DiskFull")}, ends


def command(root: Path, home: Home, *words: str, **variables: str) -> Command:
    """A command in a process of its own."""
    named = {"MINIVESS_HOME": str(home.root), "PREFECT_DISABLED": "1", **variables}
    words = ("experiment", "configs/experiments/smoke.yaml", f"data.root={root}", *words)
    return Command(words, config.child_environment(**named), home.root / "command")


@pytest.mark.usefixtures("stocked")
def test_profile_and_train_need_no_mlflow_and_are_used_when_it_is_back(
    make_dataset: Callable[..., Path], home: Home
) -> None:
    root = make_dataset(4)
    away = command(root, home, MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert away.wait() == 1, away.out + away.err
    assert "`minivess settle`, then the same command" in away.err
    assert (away.out + away.err).count("Work continues") == 1
    assert len(list(home.journal.glob("*.jsonl"))) == 4
    back = command(root, home, "flows=[profile,train]", "--json")
    assert back.wait() == 0, back.out + back.err
    found = json.loads(back.out.splitlines()[-1])
    runs = {found["data_profile_run_id"], *found["training_run_ids"]}
    assert runs == set(found["reused"])
    assert not list(home.journal.glob("*.jsonl"))
    pointers = files.read_json(home.pointers)
    assert pointers["latest_training"]["run_ids"] == found["training_run_ids"]
    stored = open_store(home, TrackingConfig()).search(status="FINISHED")
    assert laws.misdirected(pointers, {run.run_id for run in stored}) == []
