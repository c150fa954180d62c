"""Random schedules of programs, deaths and outages break no law, in simulated time."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from minivess import names
from minivess.orchestration import model_versions
from minivess.orchestration.session import Session
from minivess.tracking.journal import upload
from tests.faults import commands, grid, watching
from tests.faults.memory_store import MemoryClient, MemoryStore
from tests.faults.simulation import play, schedule_of


@pytest.mark.slow
def test_random_schedules_break_no_law() -> None:
    """Metrics, params, files and ends of all runs arrive once, in order, with the true status."""
    for seed in range(1, 101):
        assert play(schedule_of(seed)) == [], f"python -m tests.faults.simulation {seed} {seed}"


@pytest.mark.parametrize("seed", [209, 225])
def test_a_run_made_by_a_late_request_after_its_end_goes(seed: int) -> None:
    """Seeds at which a run stood twice: its request arrived after the run had ended."""
    assert play(schedule_of(seed)) == []


def test_a_run_that_stands_twice_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The laws see what they are for: without the deletion of duplicates, some schedule fails."""
    monkeypatch.setattr(upload, "delete_duplicates", lambda store, run_id, uid: None)
    assert any(play(schedule_of(seed)) for seed in range(1, 60))


@pytest.mark.slow
def test_commands_of_two_machines_on_one_store_break_no_law() -> None:
    """Whatever interleaves or is killed: pointers, aliases and the history of production hold."""
    for seed in range(1, 41):
        found = commands.play(commands.schedule_of(seed))
        assert found == [], f"python -m tests.faults.commands {seed} {seed}"


def test_a_move_that_another_machines_follows_is_not_stored_twice() -> None:
    """A seed at which a move was stored anew after another that built on it."""
    assert commands.play(commands.schedule_of(3420)) == []


def test_workers_on_machines_that_fail_break_no_law_of_the_grid() -> None:
    """One worker trains a cell, a finished cell is not trained again, every run ends truly."""
    for seed in range(1, 101):
        assert grid.play(seed) == [], f"python -m tests.faults.grid {seed} {seed}"


@pytest.mark.parametrize("seed", [35, 87, 252, 281])
def test_a_worker_that_was_cut_off_sees_cells_that_others_finished_meanwhile(seed: int) -> None:
    """Seeds at which it trained one again, and looked at no result until its next command."""
    assert grid.play(seed) == []


def test_a_journal_that_another_process_has_just_stored_is_not_made_again() -> None:
    """A seed at which one that settled left an empty journal in the place of a stored one."""
    assert grid.play(1246) == []


def test_a_lease_taken_by_two_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without leases some schedule has two workers train a cell."""
    monkeypatch.setattr(grid.lease.Leases, "_claim", lambda self, key, epoch: True)
    assert any(grid.play(seed) for seed in range(1, 20))


def test_new_data_get_one_profile_whatever_becomes_of_events_and_watchers() -> None:
    """One FINISHED profile a state of the data, none of data that cannot be read, one event."""
    for seed in range(1, 61):
        assert watching.play(seed) == [], f"python -m tests.faults.watching {seed} {seed}"


def test_data_profiled_twice_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the look for a finished profile some schedule makes two of one state."""
    monkeypatch.setattr(Session, "find", lambda self, key, experiment: None)
    assert any(watching.play(seed) for seed in range(1, 20))


def test_a_history_that_two_moves_at_once_make_false_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without a second look at the history, some schedule ends with another version in it."""
    monkeypatch.setattr(model_versions, "RACES", 1)
    assert any(commands.play(commands.schedule_of(seed)) for seed in range(1, 60))


def test_a_lost_line_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """An upload that drops the first of several operations breaks a law."""
    whole = upload.values
    monkeypatch.setattr(
        upload, "values", lambda store, run_id, part: whole(store, run_id, part[1:] or part)
    )
    assert any(play(schedule_of(seed)) for seed in range(1, 60))


def test_the_store_in_memory_answers_as_mlflow_does(blank: Path, tmp_path: Path) -> None:
    """The same calls on a real store and on the simulated one give the same answers."""
    shutil.copy(blank, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    real = _talk(MlflowClient(tracking_uri=uri, registry_uri=uri), tmp_path)
    assert real == _talk(MemoryClient(MemoryStore(), lambda: "done"), tmp_path)


def _talk(client: Any, folder: Path) -> list[Any]:
    """Call everything that the simulation relies on; return the answers without ids."""
    place = client.create_experiment("one", artifact_location=(folder / "artifacts").as_uri())
    client.set_experiment_tag(place, "project", "minivess")
    tags = {names.UID: "a" * 32, names.KIND: "family"}
    first, second = (client.create_run(place, t, tags, "run").info.run_id for t in (1, 2))
    loss = [Metric("loss", 0.5, 10, 1), Metric("loss", 0.25, 11, 2)]
    for _ in range(2):  # the same rows again change nothing
        client.log_batch(first, loss, [Param("p", "1")], [RunTag("t", "a")], synchronous=True)
    file = folder / "a.bin"
    file.write_bytes(b"abc")
    client.log_artifact(first, str(file), "deep")
    by_uid = f"tags.`{names.UID}` = '{'a' * 32}'"
    answers = [
        [e.name for e in client.search_experiments(filter_string="tags.project = 'minivess'")],
        client.get_experiment_by_name("absent"),
        _refusal(lambda: client.create_experiment("one")),
        _refusal(lambda: client.log_batch(first, params=[Param("p", "2")], synchronous=True)),
        _refusal(lambda: client.get_run("0" * 32)),
        [run.info.run_id == second for run in client.search_runs([place], by_uid)],
        [(f.path, f.file_size) for f in client.list_artifacts(first, "deep")],
        sorted((m.step, m.value) for m in client.get_metric_history(first, "loss")),
    ]
    client.delete_run(second)
    client.set_terminated(first, "FINISHED", 20)
    run = client.get_run(first)
    one = ["status", "start_time", "end_time", "lifecycle_stage", "run_name"]
    answers += [getattr(run.info, name) for name in one]
    ended = f"{by_uid} and attributes.status = 'FINISHED'"
    answers += [run.data.params, run.data.metrics, run.data.tags["t"]]
    answers += [len(client.search_runs([place], rule)) for rule in (by_uid, ended)]
    answers += [len(client.search_runs([place], by_uid, 3)), client.get_run(second).info.status]
    return [*answers, *_talk_of_models(client, first)]


def _talk_of_models(client: Any, run_id: str) -> list[Any]:
    answers: list[Any] = [_refusal(lambda: client.get_registered_model("tubes"))]
    client.create_registered_model("tubes", tags={"project": "minivess"})
    answers.append(_refusal(lambda: client.create_registered_model("tubes", tags={})))
    source = {"source": f"runs:/{run_id}/model", "run_id": run_id}
    for tags in ({"a": "1"}, {}):
        client.create_model_version("tubes", tags=tags, description="note", **source)
    answers.append(_refusal(lambda: client.get_model_version_by_alias("tubes", "production")))
    answers.append(_refusal(lambda: client.get_model_version_by_alias("none", "production")))
    answers.append(_refusal(lambda: client.get_model_version("tubes", "3")))
    answers.append(_refusal(lambda: client.set_registered_model_alias("tubes", "x", "3")))
    for version in ("1", "2"):
        client.set_registered_model_alias("tubes", "production", version)
    client.set_registered_model_tag("tubes", "minivess.production.0001", "{}")
    served = client.get_model_version_by_alias("tubes", "production")
    (model,) = client.search_registered_models("tags.project = 'minivess'")
    found = client.search_model_versions(f"name='tubes' and run_id='{run_id}'")
    answers += [str(served.version), served.run_id == run_id, dict(served.tags), dict(model.tags)]
    answers.append({alias: str(version) for alias, version in model.aliases.items()})
    answers.append(sorted((str(one.version), *one.tags.items()) for one in found))
    answers.append(len(client.search_model_versions("run_id='none'")))
    return [*answers, len(client.search_registered_models("tags.project = 'other'"))]


def _refusal(call: Callable[[], Any]) -> str:
    with pytest.raises(MlflowException) as refused:
        call()
    return str(refused.value.error_code)
