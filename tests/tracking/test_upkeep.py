"""Upkeep of runs as older releases and other tools left them: audit, backfill, purge, rebase."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from minivess import config, names
from minivess.config import TrackingConfig
from minivess.contracts import RunRecord
from minivess.errors import StoreError
from minivess.home import open_home
from minivess.tracking.run.encoding import param_text
from minivess.tracking.run.params import arch_params, data_params, loss_params, plan_params
from minivess.tracking.store import registry, sql_reader
from minivess.tracking.store.store import Store, open_store
from minivess.upkeep import audit, backfill, purge, rebase, run_copy
from tests.tracking.conftest import LOSS, NETWORK, SPLIT, OpenRun, profile_of
from tests.tracking.test_params import PLAN

pytestmark = pytest.mark.slow


@pytest.fixture
def own(blank: Path, tmp_path: Path) -> Store:
    """A store of this test alone, in a folder whose name has a space."""
    home = open_home(tmp_path / "a home")
    shutil.copy(blank, home.database)
    return open_store(home, TrackingConfig())


def old_run(store: Store, *, status: str = "FINISHED", **tags: str) -> str:
    """A run as an older release left it: a loss in a tag, folds in a file, few params."""
    experiment = store.experiment_id("old", dataset="d", note="n")
    run = store.client.create_run(
        experiment, 1_000, {"loss_function": "cbdice", "git_commit": "a" * 40, **tags}
    ).info.run_id
    store.client.log_param(run, "learning_rate", "0.001")
    folds = [{"train": ["b", "c"], "val": ["a"]}, {"train": ["a", "c"], "val": ["b"]}]
    store.client.log_text(run, json.dumps(folds), "splits/3fold_seed42.json")
    store.client.log_text(run, "torch==2.1.0\nnumpy==1.26.4\n", "environment/frozen_deps.txt")
    if status != "RUNNING":
        store.client.set_terminated(run, status, 2_000)
    return str(run)


# --- audit --------------------------------------------------------------------------------


def test_audit_names_what_a_finished_run_lacks(own: Store) -> None:
    run = old_run(own, **{names.KIND: names.FAMILY})
    (gap,) = audit.audit(own)
    assert gap.run_id == run
    assert {
        "param sys_os", "param batch_size", f"param {names.UPSTREAM_PROFILE}", f"tag {names.UID}",
        "metric eval_dice", f"artifact {names.TRAINING_ARTIFACT}",
    } <= set(gap.missing)  # fmt: skip
    assert "param learning_rate" not in gap.missing
    assert "artifact splits/*fold_seed*.json" not in gap.missing


def test_audit_asks_a_killed_run_for_its_cause_alone(own: Store) -> None:
    old_run(own, status="KILLED", **{names.KIND: names.CELL})
    (gap,) = audit.audit(own)
    assert f"tag {names.ERROR_TYPE}" in gap.missing
    assert not [one for one in gap.missing if one.startswith(("param", "artifact"))]


def test_audit_names_contradictions_and_broken_links(own: Store) -> None:
    above = old_run(own, status="FAILED")
    run = old_run(own, run_status="RUNNING", loss_type="dice_ce")
    own.client.log_param(run, names.UPSTREAM_PROFILE, above)
    own.client.log_param(run, names.UPSTREAM_TRAINING, "f" * 32)
    (gap,) = audit.audit(own, [run])
    assert {
        "tag run_status is RUNNING", "loss is named cbdice and dice_ce",
        f"{names.UPSTREAM_PROFILE} {above} is FAILED",
        f"{names.UPSTREAM_TRAINING} {'f' * 32} is no run here",
    } <= set(gap.missing)  # fmt: skip


def test_audit_says_how_a_deleted_run_comes_back(own: Store) -> None:
    above = old_run(own)
    run = old_run(own)
    own.client.log_param(run, names.UPSTREAM_TRAINING, above)
    own.client.delete_run(above)
    (gap,) = audit.audit(own, [run])
    (told,) = (one for one in gap.missing if one.startswith(names.UPSTREAM_TRAINING))
    assert f"{above} was deleted: " in told
    assert f"runs restore --run-id {above}" in told


def test_a_run_that_goes_on_is_not_judged(own: Store) -> None:
    old_run(own, status="RUNNING")
    assert audit.audit(own) == []


# --- backfill -----------------------------------------------------------------------------


def test_backfill_adds_what_a_run_itself_proves_and_nothing_else(own: Store) -> None:
    run = old_run(own)
    before = own.get(run)
    backfill.apply(own, backfill.look(own))
    after = own.get(run)
    assert after.params["loss_name"] == "cbdice"
    assert after.params["data_val_volume_ids"] == '{"0": ["a"], "1": ["b"]}'
    assert after.params["sys_torch_version"] == "2.1.0"
    assert after.params["sys_monai_version"] == "not_installed"
    assert after.params["sys_git_commit"] == "a" * 40
    assert backfill.NOTE in after.params
    assert not {"data_split_hash", "training_time_seconds"} & set(after.params)
    assert (after.status, after.end_time, after.metrics) == (
        before.status, before.end_time, before.metrics,
    )  # fmt: skip


def test_backfill_shows_first_and_the_second_time_finds_nothing(own: Store) -> None:
    run = old_run(own)
    (addition,) = backfill.look(own)
    assert own.get(run).params == {"learning_rate": "0.001"}
    backfill.apply(own, [addition])
    assert backfill.look(own) == []


def test_backfill_leaves_a_differing_param_and_says_so(own: Store) -> None:
    run = old_run(own)
    own.client.log_param(run, "loss_name", "dice_ce")
    (addition,) = backfill.look(own)
    assert "loss_name" not in addition.params
    assert addition.differing == ("loss_name is 'dice_ce', tags says 'cbdice'",)
    backfill.apply(own, [addition])
    assert own.get(run).params["loss_name"] == "dice_ce"


@pytest.mark.parametrize("status", ["FAILED", "KILLED", "RUNNING"])
def test_backfill_keeps_a_status_and_skips_what_runs(own: Store, status: str) -> None:
    run = old_run(own, status=status)
    backfill.apply(own, backfill.look(own))
    after = own.get(run)
    assert after.status == status
    assert ("loss_name" in after.params) == (status != "RUNNING")


def test_backfill_takes_a_fold_of_its_own_for_a_child_and_long_values_as_files(own: Store) -> None:
    run = old_run(own, fold_id="1", **{names.KIND: names.CELL})
    cases = tuple(f"volume_with_a_long_name_{index:03d}" for index in range(40))
    split = SPLIT.replace(folds=(SPLIT.folds[0], SPLIT.folds[1].replace(train=cases)))
    own.client.log_text(run, split.model_dump_json(), "splits/2fold_seed42.json")
    own.client.log_text(run, profile_of().model_dump_json(), names.PROFILE_ARTIFACT)
    backfill.apply(own, backfill.look(own))
    params = own.get(run).params
    assert params["data_n_train_volumes"] == "40"
    assert params["data_train_volume_ids"].startswith("40 values, hash ")
    assert own.read_json(run, "params/data_train_volume_ids.json") == list(cases)
    assert params[names.DATASET_HASH] == profile_of().dataset_hash
    assert backfill.look(own) == []


def test_backfill_restores_network_loss_and_plan_from_the_files_of_a_run(own: Store) -> None:
    tags = {names.KIND: names.CELL, "fold_id": "1", "loss_function": LOSS.name}
    run, spec = old_run(own, **tags), SPLIT.folds[1]
    cell = {"network": NETWORK.model_dump(), "loss": LOSS.model_dump(), "seed": 7}
    own.client.log_text(run, json.dumps(cell), names.SPEC_ARTIFACT)
    own.client.log_text(run, PLAN.model_dump_json(), names.PLAN_ARTIFACT)
    own.client.log_text(run, SPLIT.model_dump_json(), "splits/2fold_seed42.json")
    own.client.log_text(run, profile_of().model_dump_json(), names.PROFILE_ARTIFACT)
    backfill.apply(own, backfill.look(own))
    params = own.get(run).params
    made = data_params(profile_of(), SPLIT, spec) | plan_params(PLAN) | arch_params(NETWORK)
    for name, value in {**made, **loss_params(LOSS), "seed": 7}.items():
        assert params[name] == param_text(value), name
    assert backfill.look(own) == []


def test_a_torn_file_proves_nothing_and_stops_nothing(own: Store) -> None:
    run = old_run(own)
    own.client.log_text(run, "[{", "splits/3fold_seed42.json")
    backfill.apply(own, backfill.look(own))
    assert own.get(run).params["loss_name"] == "cbdice"


def test_a_folder_store_carried_over_by_mlflows_own_command_is_backfilled(tmp_path: Path) -> None:
    program = """
import sys, mlflow
from mlflow import MlflowClient
client = MlflowClient("file://" + sys.argv[1])
run = client.create_run(client.create_experiment("old"), 1000, {"loss_function": "cbdice"}).info
client.log_param(run.run_id, "learning_rate", "0.001")
client.log_metric(run.run_id, "val_dice", 0.5, step=3)
client.log_text(run.run_id, '[{"train": ["b"], "val": ["a"]}]', "splits/1fold_seed42.json")
client.set_terminated(run.run_id, "FINISHED", 2000)
"""
    env = {**os.environ, **config.child_environment(MLFLOW_ALLOW_FILE_STORE="true")}
    old, new = tmp_path / "mlruns", f"sqlite:///{tmp_path}/old.db"
    migrate = ["-m", "mlflow", "migrate-filestore", "--source", str(tmp_path), "--target", new]
    for words in (["-c", program, str(old)], migrate):
        done = subprocess.run([sys.executable, *words], env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    store = open_store(open_home(tmp_path / "home"), TrackingConfig(uri=new))
    backfill.apply(store, backfill.look(store))
    (record,) = [r for r in sql_reader.records(store) if r.experiment == "old"]
    assert (record.params["loss_name"], record.params["data_val_volume_ids"]) == (
        "cbdice", '{"0": ["a"]}',
    )  # fmt: skip
    assert (record.status, record.end_time, record.metrics) == ("FINISHED", 2000, {"val_dice": 0.5})


# --- purge --------------------------------------------------------------------------------


def test_purge_removes_a_deleted_run_with_all_that_lies_here_for_it(own: Store) -> None:
    run = old_run(own, **{names.KEY: "c" * 32, names.UID: "u"})
    kept = old_run(own)
    for folder in (own.home.cells / ("c" * 32), own.home.logs / "u", own.home.reports / run):
        folder.mkdir(parents=True)
        (folder / "file").write_bytes(bytes(1000))
    own.client.delete_run(run)
    (doomed,) = purge.look(own)
    assert doomed.size > 3000
    assert own.client.get_run(run).info.lifecycle_stage == "deleted"
    purge.apply(own, [doomed])
    with pytest.raises(StoreError, match="no run"):
        own.get(run)
    assert not [folder for folder in doomed.folders if folder.exists()]
    assert purge.look(own) == []
    assert own.artifacts(kept)


def test_purge_keeps_the_cell_of_a_key_that_another_run_has(own: Store) -> None:
    tags = {names.KEY: "c" * 32}
    run, _ = old_run(own, **tags), old_run(own, **tags)
    (own.home.cells / ("c" * 32)).mkdir(parents=True)
    own.client.delete_run(run)
    (doomed,) = purge.look(own)
    assert own.home.cells / ("c" * 32) not in doomed.folders


def test_purge_removes_what_is_needed_only_by_force(own: Store) -> None:
    above, parent, source, other = (old_run(own) for _ in range(4))
    own.client.log_param(other, names.UPSTREAM_TRAINING, above)
    own.client.set_tag(other, names.PARENT, parent)
    own.client.log_text(source, "x", f"{names.MODEL_ARTIFACT}/MLmodel")
    registry.register(own, name="m", run_id=source, note="n", tags={})
    for run in (above, parent, source):
        own.client.delete_run(run)
    doomed = {one.record.run_id: one for one in purge.look(own)}
    assert other in doomed[above].needed_by[0]
    assert other in doomed[parent].needed_by[0]
    assert doomed[source].needed_by == ("model m/1",)
    assert purge.apply(own, doomed.values()) == []
    assert own.client.get_run(above).info.run_id == above
    assert len(purge.apply(own, doomed.values(), force=True)) == 3
    assert [record.run_id for record in sql_reader.records(own)] == [other]


def test_purge_takes_only_runs_that_were_deleted(own: Store) -> None:
    with pytest.raises(StoreError, match="not among the deleted"):
        purge.look(own, [old_run(own)])


# --- rebase -------------------------------------------------------------------------------


@pytest.fixture
def moved(own: Store, tmp_path: Path) -> tuple[Store, str]:
    """A home moved after a run with a model was made there, and one outside of it."""
    run = old_run(own)
    own.client.log_text(run, "x", f"{names.MODEL_ARTIFACT}/MLmodel")
    own.client.create_registered_model("m")
    own.client.create_model_version("m", f"{own.get(run).artifact_uri}/{names.MODEL_ARTIFACT}", run)
    own.client.create_experiment("elsewhere", f"{own.home.root}2/artifacts")
    own.client.create_experiment("plain", f"{own.home.root}/plain")
    shutil.move(own.home.root, tmp_path / "new home")
    home = open_home(tmp_path / "new home", moved=True)
    return open_store(home, TrackingConfig()), run


def test_rebase_finds_every_address_and_the_artifacts_again(moved: tuple[Store, str]) -> None:
    store, run = moved
    old, new = str(store.home.last_root), str(store.home.root)
    shown = rebase.look(store, old, new)
    assert rebase.apply(store, old, new) == shown
    assert {move.column for move in shown} == {
        "experiments.artifact_location", "runs.artifact_uri",
        "model_versions.source", "model_versions.storage_location",
    }  # fmt: skip
    assert store.read_text(run, f"{names.MODEL_ARTIFACT}/MLmodel") == "x"
    places = {e.name: e.artifact_location for e in store.client.search_experiments()}
    assert places["plain"] == f"{new}/plain"
    assert places["elsewhere"] == f"{old}2/artifacts"
    assert rebase.look(store, old, new) == []


def test_rebase_of_a_bucket_changes_its_prefix_only(own: Store) -> None:
    own.client.create_experiment("bucket", "s3://runs/a")
    rebase.apply(own, "s3://runs", "s3://kept/runs")
    place = own.client.get_experiment_by_name("bucket").artifact_location
    assert place == "s3://kept/runs/a"


# --- from store to store ------------------------------------------------------------------


def test_a_copied_run_is_the_same_in_a_store_of_its_own(
    own: Store, blank: Path, tmp_path: Path
) -> None:
    home = open_home(tmp_path / "other")
    shutil.copy(blank, home.database)
    other = open_store(home, TrackingConfig())
    run = old_run(own, status="KILLED")
    for step in range(3):
        own.client.log_metric(run, "val_dice", step / 3, timestamp=step, step=step)
    own.client.log_text(run, "heavy", "checkpoints/last.pth")
    run_copy.copy(own, other, run, leave=("checkpoints",))
    before, after = own.get(run), other.get(run)
    assert after.replace(artifact_uri=before.artifact_uri) == before
    assert sql_reader.histories(other, [run]) == sql_reader.histories(own, [run])
    held = own.artifacts(run)
    shutil.rmtree(own.home.artifacts)
    run_copy.copy(other, own, old_run(other))
    assert other.artifacts(run) == {n: s for n, s in held.items() if "checkpoints" not in n}


# --- many runs at once --------------------------------------------------------------------


def test_the_tables_give_the_same_as_the_client(
    own: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in range(3):
        run = old_run(own, status="KILLED" if index else "RUNNING")
        for step in range(4):
            own.client.log_metric(run, "val_dice", step / 10, timestamp=step, step=step)
            own.client.log_metric(run, "system/cpu", float(step), timestamp=step, step=step)
        own.client.log_metric(run, "gone", float("nan"), timestamp=5, step=0)
        own.client.log_metric(run, "endless", float("inf"), timestamp=5, step=0)
    own.client.delete_run(old_run(own))
    quick = everything(own)
    monkeypatch.setattr(sql_reader, "DATABASES", ())
    assert everything(own) == quick
    assert len(quick[0]) == 3
    assert len([row for row in quick[1] if row["key"] == "val_dice"]) == 12
    assert [row["value"] for row in quick[1] if row["key"] == "system/cpu"] == [3.0] * 3
    assert {row["value"] for row in quick[1] if row["key"] == "gone"} == {None}


def everything(store: Store) -> tuple[list[RunRecord], list[dict[str, Any]]]:
    records = sql_reader.records(store)
    history = sql_reader.histories(store, {record.run_id for record in records})
    order = [("run_id", "ascending"), ("key", "ascending"), ("step", "ascending")]
    by_id = sorted(records, key=lambda record: record.run_id)
    return by_id, history.sort_by(order).to_pylist()


def test_a_whole_run_of_ours_lacks_only_what_its_flow_adds(store: Store, open_run: OpenRun) -> None:
    with open_run(kind=names.PROFILE) as run:
        run.params(data_params(profile_of()))
    (gap,) = audit.audit(store, [run.run_id])
    assert set(gap.missing) == {
        "metric n_volumes", f"artifact {names.PROFILE_ARTIFACT}",
        f"artifact {names.DVC_ARTIFACT}", f"artifact {names.GALLERY_ARTIFACT}",
        "artifact dataset/findings.json",
    }  # fmt: skip
