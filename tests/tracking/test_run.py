"""What a run holds, and that each value is written once and whole."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import mlflow
import pytest

from minivess import names
from minivess.config import ExperimentConfig, TrackingConfig
from minivess.errors import DataError, StoreError
from minivess.tracking.journal import uploader
from minivess.tracking.run.run import attach_run
from minivess.tracking.store.store import Store
from tests.tracking.conftest import OpenRun, profile_of

SYSTEM = {
    "python_version",
    "os",
    "os_kernel",
    "hostname",
    "total_ram_gb",
    "cpu_model",
    "torch_version",
    "monai_version",
    "torchio_version",
    "torchmetrics_version",
    "cuda_version",
    "cudnn_version",
    "mlflow_version",
    "prefect_version",
    "numpy_version",
    "gpu_count",
    "gpu_model",
    "gpu_vram_mb",
    "gpu_driver_version",
    "git_commit",
    "git_commit_short",
    "git_branch",
    "git_dirty",
}


def test_every_run_carries_machine_software_and_code_version(
    store: Store, open_run: OpenRun
) -> None:
    with open_run() as run:
        pass
    params = store.get(run.run_id).params
    assert {f"sys_{name}" for name in SYSTEM} == {n for n in params if n.startswith("sys_")}


def test_a_run_is_tagged_so_that_others_find_and_understand_it(
    store: Store, open_run: OpenRun
) -> None:
    with open_run(key="k7", tags={"loss_type": "cbdice"}, launched_by="notebook") as run:
        assert store.get(run.run_id).tags["run_status"] == "RUNNING"
    tags = store.get(run.run_id).tags
    assert tags["content_key"] == "k7"
    assert tags["minivess.uid"] == run.uid
    assert tags["loss_type"] == "cbdice"
    assert tags["launched_by"] == "notebook"
    assert tags["run_status"] == "FINISHED"
    assert tags["mlflow.note.content"] == "A run of a test."
    assert tags["started_at"].endswith("+00:00")


def test_configuration_environment_and_logs_are_stored_unasked(
    store: Store, open_run: OpenRun
) -> None:
    with open_run() as run:
        logging.getLogger("minivess.formats.volume").warning("vol3 looks odd")
    held = store.artifacts(run.run_id)
    assert {
        "config/resolved_config.yaml", "config/experiment_config.json",
        "environment/frozen_deps.txt", "environment/monai_config.txt",
        "environment/system_info.json", "environment/git.diff", "lineage/key.json",
        "logs/train.log", "logs/performance.log", "logs/warnings.log",
    } <= set(held)  # fmt: skip
    assert "[data] minivess.formats.volume: vol3 looks odd" in store.read_text(
        run.run_id, "logs/warnings.log"
    )
    assert store.read_json(run.run_id, "lineage/key.json") == {"seed": 1}


def test_a_child_knows_its_parent(store: Store, open_run: OpenRun, experiment: str) -> None:
    with open_run(kind=names.FAMILY) as parent, open_run(parent=parent) as child:
        pass
    found = store.search(experiment=experiment, parent=parent.run_id)
    assert [record.run_id for record in found] == [child.run_id]


def test_an_equal_param_may_be_written_again_and_a_different_one_is_refused_by_name(
    store: Store, open_run: OpenRun
) -> None:
    with open_run() as run:
        run.params({"learning_rate": 0.001, "patch_size": (64, 64, 16)})
        run.params({"learning_rate": 0.001})
        assert uploader.of(store).flush_all() == []
        with pytest.raises(StoreError, match="learning_rate"):
            run.params({"learning_rate": 0.01, "other": 1})
        with pytest.raises(StoreError, match="learning_rate"):
            attach_run(store, run.run_id).params({"learning_rate": 0.01})
    params = store.get(run.run_id).params
    assert params["learning_rate"] == "0.001"
    assert params["patch_size"] == "[64, 64, 16]"
    assert "other" not in params


def test_a_long_param_becomes_an_artifact_with_count_and_hash(
    store: Store, open_run: OpenRun
) -> None:
    ids = [f"case{number:03d}" for number in range(100)]
    with open_run() as run:
        run.params({"data_train_volume_ids": ids})
        run.params({"data_train_volume_ids": ids})
    written = store.get(run.run_id).params["data_train_volume_ids"]
    assert written.startswith("100 values, hash ")
    assert len(written) < 500
    assert store.read_json(run.run_id, "params/data_train_volume_ids.json") == ids


def test_an_epoch_sent_twice_is_stored_once(store: Store, open_run: OpenRun) -> None:
    with open_run() as run:
        for _ in range(2):
            run.metrics({"val_dice": 0.5, "val_masd": None}, step=3)
        run.metrics({"val_dice": 0.6}, step=4)
    history = store.client.get_metric_history(run.run_id, "val_dice")
    assert [(entry.step, entry.value) for entry in history] == [(3, 0.5), (4, 0.6)]
    assert "val_masd" not in store.get(run.run_id).metrics


def test_infinity_is_stored_as_undefined_and_said(store: Store, open_run: OpenRun) -> None:
    with open_run() as run:
        run.metrics({"train_loss": float("inf")}, step=0)
    (entry,) = store.client.get_metric_history(run.run_id, "train_loss")
    assert entry.value != entry.value
    assert "train_loss is infinite" in store.read_text(run.run_id, "logs/warnings.log")


def test_files_keep_their_names_and_are_verified(
    store: Store, open_run: OpenRun, tmp_path: Path
) -> None:
    file = tmp_path / "last.pth"
    file.write_bytes(b"x" * 1000)
    with open_run() as run:
        run.file(file, "checkpoints")
        run.text("hello", "dataset/curated.dvc")
        run.json({"dice": float("nan"), "path": Path("a/b")}, "evaluation/result.json")
    assert store.artifacts(run.run_id)["checkpoints/last.pth"] == 1000
    assert store.read_text(run.run_id, "dataset/curated.dvc") == "hello"
    assert store.read_json(run.run_id, "evaluation/result.json") == {"dice": None, "path": "a/b"}


def test_only_checkpoints_and_models_may_be_large(open_run: OpenRun, tmp_path: Path) -> None:
    file = tmp_path / "volume.nii"
    with file.open("wb") as stream:
        stream.truncate(101 * 2**20)
    with open_run() as run, pytest.raises(StoreError, match="101 MB"):
        run.file(file, "dataset")


def test_a_table_is_one_that_mlflow_reads(
    store: Store, open_run: OpenRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[dict[str, Any]] = [
        {"case": "a", "dice": 0.5},
        {"case": "b", "dice": None, "group": "g"},
    ]
    with open_run() as run:
        for _ in range(2):
            run.table(rows, names.PER_VOLUME_ARTIFACT)
    # load_table looks runs up through MLflow's global address.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    experiment_id = store.client.get_run(run.run_id).info.experiment_id
    table = mlflow.MlflowClient(store.uri).load_table(experiment_id, names.PER_VOLUME_ARTIFACT)
    assert list(table["case"]) == ["a", "b"]
    assert table["dice"].isna().tolist() == [False, True]


def test_the_dataset_is_the_runs_input(store: Store, open_run: OpenRun) -> None:
    with open_run() as run:
        run.dataset(profile_of())
    (given,) = store.client.get_run(run.run_id).inputs.dataset_inputs
    assert given.dataset.name == "tubes"
    assert given.dataset.digest == profile_of().dataset_hash
    assert given.tags[0].value == "training"
    assert mlflow.data.get_source(given).to_dict() == {"uri": "data/tubes"}


def test_system_metrics_are_there_even_for_a_short_run_and_leave_nothing_in_the_current_folder(
    store: Store, open_run: OpenRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = TrackingConfig(log_system_metrics=True, system_metrics_interval_s=60)
    with open_run(config=ExperimentConfig(tracking=settings)) as run:
        run.metrics({"val_dice": 0.5}, step=0)
    metrics = store.get(run.run_id).metrics
    assert "system/cpu_utilization_percentage" in metrics
    assert "system/system_memory_usage_megabytes" in metrics
    assert list(tmp_path.iterdir()) == []


def test_a_failure_keeps_its_type_its_traceback_and_its_logs(
    store: Store, open_run: OpenRun, experiment: str
) -> None:
    with pytest.raises(DataError), open_run():
        raise DataError("vol3 is torn", remedy="copy it again")
    (record,) = store.search(experiment=experiment)
    assert record.status == "FAILED"
    assert record.tags["error_type"] == "DataError"
    assert "vol3 is torn" in store.read_text(record.run_id, "traceback.txt")
    assert "logs/train.log" in store.artifacts(record.run_id)


def test_a_parent_can_end_failed_because_a_part_failed(store: Store, open_run: OpenRun) -> None:
    with open_run() as run:
        run.fail("TrainingError", "fold 1 failed")
    record = store.get(run.run_id)
    assert (record.status, record.tags["error_type"]) == ("FAILED", "TrainingError")


def test_a_status_that_somebody_else_set_stays(store: Store, open_run: OpenRun) -> None:
    with open_run() as run:
        store.client.set_terminated(run.run_id, "KILLED")
    assert store.get(run.run_id).status == "KILLED"


def test_what_a_deleted_run_refuses_is_kept_aside_and_hides_no_error(
    store: Store, open_run: OpenRun, caplog: pytest.LogCaptureFixture
) -> None:
    uids = []

    def work() -> None:
        with open_run() as run:
            uids.append(run.uid)
            store.client.delete_run(run.run_id)
            run.metrics({"val_dice": 0.5}, step=0)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    kept = store.home.journal / f"{uids[0]}.refused"
    assert b'"val_dice":0.5' in kept.read_bytes()
    assert "MLflow rejected val_dice" in caplog.text


def test_what_the_artifact_folder_refuses_waits_and_the_run_ends_with_it(
    store: Store,
    open_run: OpenRun,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if store.uri.startswith("http"):
        pytest.skip("the folder is the server's")
    monkeypatch.setattr("minivess.tracking.journal.uploader.PATIENCE_S", 1.0)
    with open_run() as run:
        place = Path(url2pathname(urlsplit(store.get(run.run_id).artifact_uri).path))
        assert uploader.of(store).flush_all() == []
        shutil.rmtree(place)
        place.write_text("a file where the folder was")
        run.metrics({"val_dice": 0.5}, step=0)
        run.text("kept", "a/b.txt")
    record = store.get(run.run_id)
    assert (record.status, record.metrics) == ("RUNNING", {"val_dice": 0.5})
    warnings = [entry.message for entry in caplog.records if entry.levelname == "WARNING"]
    assert "store a/b.txt" in warnings[0]
    assert "is not complete in MLflow" in warnings[1]
    assert len(warnings) == 2
    place.unlink()
    assert uploader.of(store).flush_all() == []
    assert store.get(run.run_id).status == "FINISHED"
    assert store.read_text(run.run_id, "a/b.txt") == "kept"
    assert "logs/train.log" in store.artifacts(run.run_id)


def test_the_performance_log_has_minutes_folds_and_means(store: Store, open_run: OpenRun) -> None:
    with open_run(kind=names.FAMILY, name="dynunet_dice_ce", tags={"num_folds": "2"}) as run:
        run.metrics({"eval_dice": 0.75, "eval_fold0_dice": 0.7, "eval_dice_ci_lower": 0.6}, step=0)
    line = store.read_text(run.run_id, "logs/performance.log")
    assert "family dynunet_dice_ce FINISHED minutes=0.0" in line
    assert line.strip().endswith("n_folds=2 dice=0.75")


def test_log_files_of_two_runs_do_not_mix(store: Store, open_run: OpenRun) -> None:
    log = logging.getLogger("minivess.training.trainer")
    with open_run() as first:
        log.info("in the first")
    with open_run() as second:
        log.info("in the second")
    assert "in the second" not in store.read_text(first.run_id, "logs/train.log")
    assert "in the first" not in store.read_text(second.run_id, "logs/train.log")
    assert json.loads(store.read_text(first.run_id, "config/experiment_config.json")) == {
        "tracking": {"log_system_metrics": False}
    }
