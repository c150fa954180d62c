"""Broken machines, folders and stores, each found by the check that is meant for it."""

from __future__ import annotations

import json
import shutil
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from minivess import config as configs
from minivess import files, names
from minivess import home as homes
from minivess.cli import main
from minivess.compute import hardware
from minivess.config import Environment
from minivess.home import Home
from minivess.runtime import liveness
from minivess.stages.doctor.examine import CHECKS, TEXTS, Result, examine
from minivess.stages.doctor.surroundings import Surroundings
from minivess.tracking.store.store import open_store

GB = 1024**3


def around(home: Home, *words: str, **readings: Any) -> Surroundings:
    env = Environment(home=home.root, prefect_disabled=True)
    found = hardware.read()._replace(**readings)
    return Surroundings(env, configs.load(overrides=words, env=Environment()), found)


def of(code: str, where: Surroundings) -> Result:
    """What one check finds."""
    return next(result for result in examine(where) if result.code == code)


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Surroundings], Result]:
    """What one check finds, without waiting for the others."""

    def run(code: str, where: Surroundings) -> Result:
        monkeypatch.setattr("minivess.stages.doctor.examine.CHECKS", {code: CHECKS[code]})
        return of(code, where)

    return run


Only = Callable[[str, Surroundings], Result]


def test_each_check_has_a_reason_and_a_remedy() -> None:
    assert len(CHECKS) >= 25
    assert list(TEXTS) == list(CHECKS)
    assert all(texts["why"] and texts["remedy"] for texts in TEXTS.values())


@pytest.mark.usefixtures("stocked")
def test_a_whole_machine_has_no_error(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PREFECT_DISABLED", "1")
    assert main.main(["doctor", "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {one["code"]: one["state"] for one in told["checks"] if one["state"] == "error"} == {}
    assert {one["code"] for one in told["checks"]} == set(CHECKS)


# --- machines -------------------------------------------------------------------------------


class Driver:
    """A driver with one GPU."""

    class NVMLError(Exception):
        """What pynvml raises."""

    def __getattr__(self, name: str) -> Any:
        answers: dict[str, Any] = {
            "nvmlSystemGetDriverVersion": "550.54", "nvmlDeviceGetCount": 1,
            "nvmlDeviceGetName": "NVIDIA A100", "nvmlDeviceGetUUID": "GPU-1",
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=40 * GB, free=40 * GB),
            "nvmlDeviceGetCudaComputeCapability": (8, 0), "nvmlDeviceGetMigMode": (0, 0),
        }  # fmt: skip
        if name.startswith("NVMLError"):
            return Driver.NVMLError
        return lambda *_: answers.get(name)


def test_a_gpu_that_torch_cannot_use_is_an_error(
    home: Home, only: Only, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    where = around(home, nvml=Driver())
    monkeypatch.setattr(torch.version, "cuda", None)
    assert only("gpu", where).state == "error"
    assert "A100, driver 550.54, and torch" in only("gpu", where).found
    monkeypatch.setattr(torch.version, "cuda", "99.9")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "torch for CUDA 99.9 cannot use it" in only("gpu", where).found


@pytest.mark.parametrize(("code", "readings", "state"), [
    ("memory", {"ram_total": 8 * GB, "ram_available": GB // 2}, "error"),
    ("memory", {"ram_total": 8 * GB, "ram_available": 2 * GB}, "warning"),
    ("shm", {"shm": GB // 16}, "warning"),
    ("shm", {"shm": None}, "note"),
    ("swap", {"swap_total": 0}, "note"),
])  # fmt: skip
def test_a_machine_that_lacks_memory_is_found(
    code: str, readings: dict[str, int], state: str, home: Home, only: Only
) -> None:
    assert only(code, around(home, **readings)).state == state


def test_a_wrong_python_package_or_limit_is_found(
    home: Home, only: Only, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.version_info", (3, 15, 0))
    assert only("python", around(home)).state == "error"
    monkeypatch.setattr("importlib.metadata.requires", lambda _: ["numpy<1", "absent-package"])
    assert "absent-package is missing" in only("packages", around(home)).found
    monkeypatch.setattr("resource.getrlimit", lambda _: (256, 256))
    assert only("open_files", around(home)).state == "warning"


def test_more_threads_than_cores_are_found(home: Home, only: Only) -> None:
    where = around(home, affinity=2)
    where = replace(where, env=replace(where.env, omp_num_threads=64))
    assert only("threads", where).state == "warning"


def test_programs_that_are_absent_are_named(
    home: Home, only: Only, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(home.root))
    assert only("git", around(home)).state == "warning"
    assert only("containers", around(home)).state == "note"
    monkeypatch.setenv("PREFECT_LOGGING_LEVEL", "DEBUG")
    assert only("variables", around(home)).found == "PREFECT_LOGGING_LEVEL"
    monkeypatch.setenv("DO_NOT_TRACK", "0")
    assert only("telemetry", around(home)).found == "on by DO_NOT_TRACK"


# --- folders --------------------------------------------------------------------------------


def test_an_output_folder_that_cannot_be_made_or_has_moved_is_an_error(
    home: Home, only: Only, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    broken = around(home)
    broken = replace(broken, env=replace(broken.env, home=tmp_path / "file" / "below"))
    result = only("home", broken)
    assert (result.state, "MINIVESS_HOME" in result.remedy) == ("error", True)
    shutil.move(home.root, tmp_path / "elsewhere")
    moved = replace(broken, env=replace(broken.env, home=tmp_path / "elsewhere"))
    assert (only("moved", moved).state, only("moved", moved).remedy) == (
        "error", "minivess rebase --apply",
    )  # fmt: skip


def test_a_full_disk_is_an_error(home: Home, only: Only, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=GB // 2, total=GB))
    assert only("disk", around(home)).state == "error"


@pytest.mark.parametrize(("kind", "state"), [("ext4", "ok"), ("nfs4", "warning")])
def test_a_file_system_of_the_network_is_found(
    kind: str, state: str, home: Home, only: Only, tmp_path: Path
) -> None:
    proc = tmp_path / "machine" / "proc"
    proc.mkdir(parents=True)
    (proc / "mounts").write_text(f"/dev/a / ext4 rw 0 0\nserver:/x {home.root} {kind} rw 0 0\n")
    result = only("filesystem", around(home, root=tmp_path / "machine"))
    assert (result.state, result.found) == (state, kind)


def test_a_lock_that_does_not_hold_is_an_error(
    home: Home, only: Only, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert only("locks", around(home)).state == "ok"
    monkeypatch.setattr("fcntl.flock", lambda *_: None)
    assert only("locks", around(home)).state == "error"


def test_a_wrong_clock_is_found(home: Home, only: Only, monkeypatch: pytest.MonkeyPatch) -> None:
    ahead = time.time() + 3600
    monkeypatch.setattr("minivess.stages.doctor.folders.time", SimpleNamespace(time=lambda: ahead))
    assert only("clock", around(home)).state == "warning"


def test_what_works_or_waits_in_the_folder_is_said(home: Home, only: Only) -> None:
    with homes.lock(home.root / "lock", what="minivess train"):
        assert "`minivess train`" in only("holder", around(home)).found
    home.journal.mkdir()
    (home.journal / "a.jsonl").write_text("")
    result = only("journal", around(home))
    assert (result.state, result.settles) == ("warning", True)


def test_a_model_file_that_cannot_be_read_is_named(
    home: Home, only: Only, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "configs" / "models").mkdir(parents=True)
    (tmp_path / "configs" / "models" / "mine.yaml").write_text("family: mine\n")
    monkeypatch.chdir(tmp_path)
    assert "mine.yaml" in only("configs", around(home)).found


# --- stores ---------------------------------------------------------------------------------


def test_a_store_that_does_not_answer_is_an_error(home: Home, only: Only) -> None:
    result = only("mlflow", around(home, "tracking.uri=http://127.0.0.1:9"))
    assert (result.state, "MLFLOW_TRACKING_URI" in result.remedy) == ("error", True)


def test_a_damaged_database_is_an_error(home: Home, only: Only) -> None:
    home.database.write_bytes(b"no database at all" * 100)
    assert only("mlflow_database", around(home)).state == "error"
    home.prefect.mkdir()
    (home.prefect / "prefect.db").write_bytes(b"no database at all" * 100)
    assert only("prefect_database", around(home)).state == "error"


@pytest.mark.usefixtures("stocked")
def test_dead_runs_lost_aliases_and_pointers_are_found_and_settled(
    home: Home, only: Only, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    where = around(home)
    client = open_store(home, where.config.tracking).client
    experiment = client.create_experiment("vessels")
    gone = {**liveness.identity(), liveness.PID: "999999", liveness.STARTED: "1"}
    tags = {**gone, names.KIND: names.FAMILY, names.UID: "1"}
    run = client.create_run(experiment, tags=tags, run_name="dead")
    client.create_registered_model("vessels", tags={"project": names.PROJECT})
    client.create_model_version("vessels", source="runs:/lost/model", run_id="f" * 32)
    client.set_registered_model_alias("vessels", "champion", "1")
    files.write_json(home.pointers, {"latest_training": {"run_ids": ["f" * 32]}})
    assert (only("dead_runs", where).state, only("dead_runs", where).found) == ("warning", "dead")
    assert "vessels@champion" in only("aliases", where).found
    assert only("pointers", where).state == "warning"
    monkeypatch.setenv("PREFECT_DISABLED", "1")
    monkeypatch.setattr("minivess.stages.doctor.examine.CHECKS", {"dead_runs": CHECKS["dead_runs"]})
    assert main.main(["doctor", "--fix", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["fixed"] == ["dead_runs"]
    assert client.get_run(run.info.run_id).info.status == "KILLED"


def test_servers_ports_and_folders_are_tried(home: Home, only: Only, tmp_path: Path) -> None:
    where = around(home)
    lost = replace(where.env, prefect_disabled=False, prefect_api_url="http://127.0.0.1:9/api")
    assert only("prefect", replace(where, env=lost)).state == "error"
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", 5000))
        taken.listen()
        assert only("port_mlflow", where).state == "note"
    assert only("remote", around(home, f"data.remote={tmp_path / 'absent'}")).state == "error"
    stated = only("artifacts", around(home, f"tracking.artifact_root={tmp_path}"))
    assert (stated.state, stated.found) == ("ok", str(tmp_path))


def test_an_error_makes_the_exit_code_1_and_names_the_remedy(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home.database.write_bytes(b"no database at all" * 100)
    checks = {"mlflow_database": CHECKS["mlflow_database"], "python": CHECKS["python"]}
    monkeypatch.setattr("minivess.stages.doctor.examine.CHECKS", checks)
    assert main.main(["doctor"]) == 1
    shown = capsys.readouterr().out
    assert "error    mlflow_database" in shown
    assert "Try: restore a copy" in shown
    assert "2 checks: 1 error, 0 warnings" in shown
