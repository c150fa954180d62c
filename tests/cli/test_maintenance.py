"""The upkeep verbs as typed: shown first, done with --apply, one JSON object, exit codes."""

from __future__ import annotations

import json
import math
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minivess import home as homes
from minivess import names
from minivess.cli import board, main
from minivess.config import TrackingConfig
from minivess.home import open_home
from minivess.orchestration.session import Session
from minivess.runtime import liveness
from minivess.tracking.run.params import data_params
from minivess.tracking.run.run_lifecycle import mlflow_run
from minivess.tracking.store.store import Store, open_store
from minivess.upkeep import status
from tests.tracking.conftest import QUIET, profile_of

pytestmark = pytest.mark.slow

Verb = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def minivess(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Verb:
    """Type a verb with --json; its exit code and what it printed."""
    monkeypatch.setenv("PREFECT_DISABLED", "1")

    def run(*words: str) -> tuple[int, dict[str, Any]]:
        code = main.main([*words, "--json"])
        said = capsys.readouterr()
        found: dict[str, Any] = json.loads(said.out.splitlines()[-1])
        return code, {"error": said.err} if "failure" in found else found

    return run


def make(store: Store, status: str = "FINISHED", **tags: str) -> str:
    """A run with these tags."""
    experiment = store.experiment_id("old", dataset="d", note="n")
    run = store.client.create_run(experiment, tags=tags, run_name=tags.get("name", "run"))
    if status != "RUNNING":
        store.client.set_terminated(run.info.run_id, status)
    return str(run.info.run_id)


def test_audit_lists_what_is_missing_and_ends_with_1(store: Store, minivess: Verb) -> None:
    assert minivess("audit") == (0, {"gaps": []})
    run = make(store, **{names.KIND: names.FAMILY})
    code, told = minivess("audit", run)
    assert (code, told["gaps"][0]["run_id"]) == (1, run)
    assert "param batch_size" in told["gaps"][0]["missing"]


def test_backfill_writes_with_apply_only(store: Store, minivess: Verb) -> None:
    run = make(store, loss_function="cbdice")
    code, told = minivess("backfill")
    assert (code, told["applied"], told["runs"][0]["run_id"]) == (0, False, run)
    assert store.get(run).params == {}
    minivess("backfill", "--apply")
    assert store.get(run).params["loss_name"] == "cbdice"
    assert minivess("backfill", "--apply")[1]["runs"] == []


def test_purge_says_what_it_would_free(store: Store, minivess: Verb) -> None:
    run = make(store)
    store.client.log_text(run, "x" * 500, "a.txt")
    store.client.delete_run(run)
    code, told = minivess("purge")
    assert (code, told) == (0, {"removed": [run], "bytes": 500, "kept": {}, "applied": False})
    assert store.client.get_run(run).info.lifecycle_stage == "deleted"


@pytest.mark.parametrize("named", [False, True])
def test_a_moved_home_names_the_command_that_mends_it(
    named: bool, store: Store, minivess: Verb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [str(store.home.root), str(tmp_path / "new")] if named else []
    run = make(store, loss_function="cbdice")
    store.client.log_text(run, "x", "a.txt")
    shutil.move(store.home.root, tmp_path / "new")
    monkeypatch.setenv("MINIVESS_HOME", str(tmp_path / "new"))
    code, told = minivess("status")
    assert (code, "minivess rebase --apply" in told["error"]) == (1, True)
    assert minivess("rebase")[1]["applied"] is False
    assert minivess("status")[0] == 1
    code, told = minivess("rebase", *words, "--apply")
    assert (code, told["moves"]["runs.artifact_uri"]) == (0, 1)
    assert minivess("status")[1]["runs"] == 1
    assert minivess("rebase", "--apply")[1] == {"moves": {}, "applied": False}
    home = open_home(tmp_path / "new")
    assert open_store(home, TrackingConfig()).read_text(run, "a.txt") == "x"
    assert home.translate(f"{tmp_path}/home/dvc/remote") == f"{tmp_path}/new/dvc/remote"
    assert home.translate("s3://bucket") == "s3://bucket"


def test_status_tells_what_runs_until_when_and_what_is_left(store: Store, minivess: Verb) -> None:
    running = make(store, "RUNNING", **liveness.identity(), **{names.KIND: names.CELL})
    store.client.log_param(running, "max_epochs", "5")
    begun = store.client.get_run(running).info.start_time
    for step in range(3):
        store.client.log_metric(running, "train_loss", 1.0, begun + 10_000 * step, step)
        store.client.log_metric(running, "val_dice", 0.1 * step, begun + 10_000 * step, step)
    dead = make(store, "RUNNING", **{**liveness.identity(), liveness.STARTED: "1"})
    killed = make(store, "KILLED", **{names.KEY: "k", names.ERROR_TYPE: "ProcessDied"})
    make(store, "KILLED", **{names.KEY: "done"})
    make(store, **{names.KEY: "done"})
    code, told = minivess("status")
    by_id = {one["run_id"]: one for one in told["running"]}
    assert code == 0
    assert by_id[running]["epochs"] == [3, 5]
    assert 0 < by_id[running]["eta_s"] <= 40
    assert by_id[dead]["where"].startswith("dead")
    seen = {one.record.run_id: one for one in status.look(store).running}
    assert [board.curve(seen[running].curve, bars) for bars in ("_#", "▁▅█")] == ["__#", "▁▅█"]
    assert board.curve((1.0, math.nan, 1.0)) == "_?_"
    assert (seen[running].memory > 10**7, seen[dead].memory) == (True, None)
    assert told["unfinished"] == [killed]
    assert store.get(dead).status == "RUNNING"


def test_status_names_results_that_something_newer_has_overtaken(
    store: Store, minivess: Verb
) -> None:
    def finished(kind: str, **params: str) -> str:
        run = make(store, "RUNNING", **{names.KIND: kind})
        for name, value in params.items():
            store.client.log_param(run, name, value)
        store.client.set_terminated(run)
        return run

    data = {names.DATASET_NAME: "tubes"}
    old = finished(names.ANALYSIS, **{names.UPSTREAM_EXPERIMENT: "old"})
    finished(names.DEPLOYMENT, **{names.UPSTREAM_EXPERIMENT: "old", names.UPSTREAM_ANALYSIS: "x"})
    assert minivess("status")[1]["stale"] == [
        "deployment of old: older than its analysis (minivess deploy)"
    ]
    finished(names.FAMILY, **data, **{names.DATASET_HASH: "1"})
    finished(names.PROFILE, **data, **{names.DATASET_HASH: "2"})
    assert minivess("status")[1]["stale"] == [
        "training old: the data have a newer version (minivess train)",
        "analysis of old: older than its training (minivess analyse)",
        "deployment of old: older than its analysis (minivess deploy)",
    ]
    assert store.get(old).status == "FINISHED"


def test_status_follows_until_ctrl_c(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make(store)

    def stop(session: Session, text: str = "") -> None:
        if text == "1 run":
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Session, "print", stop)
    assert main.main(["status", "--follow"]) == 130
    assert "Interrupted" in capsys.readouterr().err


def test_a_run_of_another_host_is_ended_only_by_a_persons_word(
    store: Store, minivess: Verb
) -> None:
    elsewhere = {**liveness.identity(), liveness.HOST: "elsewhere", names.UID: "u"}
    run = make(store, "RUNNING", **elsewhere)
    assert minivess("settle")[1]["settled"] == []
    assert store.get(run).status == "RUNNING"
    assert minivess("settle", run)[1]["settled"] == [run]
    ended = store.get(run)
    assert (ended.status, ended.tags[names.ERROR_TYPE]) == ("KILLED", names.PROCESS_DIED)
    code, told = minivess("settle", run)
    assert (code, "an ended run keeps its status" in told["error"]) == (1, True)
    alive = make(store, "RUNNING", **liveness.identity(), **{names.UID: "v"})
    code, told = minivess("settle", alive)
    assert (code, "is not dead" in told["error"]) == (1, True)
    assert store.get(alive).status == "RUNNING"


def test_settle_points_at_the_newest_of_every_dataset_and_names_no_other(
    store: Store, minivess: Verb, tmp_path: Path
) -> None:
    assert minivess("settle")[1]["pointers"] == {}
    made = {}
    for name in ("tubes", "nets"):
        common: dict[str, Any] = {
            "key": name,
            "note": "n",
            "dataset": name,
            "config": QUIET,
            "ingredients": {},
        }
        profile = profile_of().replace(dataset=name)
        with mlflow_run(
            store, experiment=names.PROFILE_EXPERIMENT, name=name, kind=names.PROFILE, **common
        ) as run:
            run.params(data_params(profile))
            run.json(profile, names.PROFILE_ARTIFACT)
        made[name] = run.run_id
    told = minivess("settle")[1]["pointers"]
    assert {name: held["run_id"] for name, held in told.items()} == {
        f"data_profile-{name}": run_id for name, run_id in made.items()
    }
    latest = json.loads(open_home(tmp_path / "home").pointers.read_text())["latest_data_profile"]
    assert latest["run_id"] == made["nets"]
    assert list(minivess("settle", "data.name=tubes")[1]["pointers"]) == ["data_profile-tubes"]


def test_a_lock_tells_who_holds_it_to_whoever_looks(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert homes.holds(path) is None
    with homes.lock(path, what="minivess train"):
        assert (homes.holds(path) or {})["what"] == "minivess train"
    assert homes.holds(path) is None
