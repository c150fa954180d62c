"""How a run may end: each way in a process of its own, because that is where it happens."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator

import pytest

from minivess import names
from minivess.contracts import RunRecord
from minivess.errors import StoreError
from minivess.runtime import liveness, logs
from minivess.tracking.journal import upload
from minivess.tracking.run.dead_runs import settle_runs
from minivess.tracking.run.run_lifecycle import EXPERIMENT_NOTES, opening_operation, status_of_error
from minivess.tracking.store.store import Store
from tests.tracking.conftest import OpenRun

pytestmark = pytest.mark.slow

PROGRAM = """
import json, os, signal, sys, time
from pathlib import Path
from sqlalchemy.orm import configure_mappers
from minivess.config import ExperimentConfig, TrackingConfig
from minivess.home import open_home
from minivess.tracking.run import environment
from minivess.tracking.store.connection import preload
from minivess.tracking.run.run_lifecycle import mlflow_run
from minivess.tracking.store.store import open_store

# What is slow and opens nothing happens once, before the forks.
preload()
import mlflow.store.tracking.sqlalchemy_store
configure_mappers()
environment.collect()
place, ready, signals = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[4])
children = {}
for way in json.loads(sys.argv[3]):
    children[way] = os.fork()
    if not children[way]:
        break
else:
    codes = {}
    for way, child in children.items():
        if way in signals:
            while not (ready / way).exists():
                if os.waitpid(child, os.WNOHANG)[0]:
                    sys.exit(f"{way} ended before it was ready")
                time.sleep(0.02)
            os.kill(child, signals[way])
        codes[way] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps(codes))
    sys.exit()

def stop(number, frame):
    raise SystemExit(128 + number)

signal.signal(signal.SIGTERM, stop)
config = ExperimentConfig(tracking=TrackingConfig(log_system_metrics=False))
with mlflow_run(
    open_store(open_home(place), config.tracking), experiment="endings", name=way, kind="cell",
    key=way, note="n", dataset="d", config=config, ingredients={},
) as run:
    run.metrics({"val_loss": 1.0}, step=0)
    if way == "return": pass
    elif way == "exception": raise ValueError("bad voxel")
    elif way.startswith("exit"): sys.exit(int(way[5:]))
    elif way == "message": sys.exit("gave up")
    else:
        (ready / way).touch()
        while True:
            time.sleep(0.05)
"""
SIGNALS = {
    "interrupt": signal.SIGINT,
    "terminate": signal.SIGTERM,
    "kill": signal.SIGKILL,
}
ENDS = {
    # way: (status, error_type, exit code of the process)
    "return": ("FINISHED", None, 0),
    "exit 0": ("FINISHED", None, 0),
    "exit 1": ("FAILED", "SystemExit", 1),
    "exit 143": ("KILLED", "SystemExit", 143),
    "message": ("FAILED", "SystemExit", 1),
    "exception": ("FAILED", "ValueError", 1),
    "interrupt": ("KILLED", "KeyboardInterrupt", -signal.SIGINT),
    "terminate": ("KILLED", "SystemExit", 143),
    "kill": ("KILLED", "ProcessDied", -signal.SIGKILL),
}


@pytest.fixture(scope="module")
def codes(store: Store, tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """Every ending carried out, each in a fork of one process; exit codes by way.

    Dead runs are settled.
    """
    folder = tmp_path_factory.mktemp("ready")
    store.experiment_id("endings", dataset="d", note="n")
    words = [str(store.home.root), str(folder), json.dumps(list(ENDS)), json.dumps(SIGNALS)]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    settle_runs(store)
    found: dict[str, int] = json.loads(done.stdout)
    return found


def _record(store: Store, way: str) -> RunRecord:
    (found,) = [run for run in store.search(experiment="endings") if run.name == way]
    return found


@pytest.mark.parametrize("way", ENDS)
def test_a_run_ends_as_its_work_ends(store: Store, codes: dict[str, int], way: str) -> None:
    status, error_type, code = ENDS[way]
    record = _record(store, way)
    assert codes[way] == code
    assert (record.status, record.tags["run_status"]) == (status, status)
    assert record.tags.get("error_type") == error_type
    assert record.end_time is not None
    assert "logs/train.log" in store.artifacts(record.run_id)


@pytest.mark.usefixtures("codes")
def test_a_run_whose_process_died_ends_when_it_was_last_heard_of(store: Store) -> None:
    record = _record(store, "kill")
    (entry,) = store.client.get_metric_history(record.run_id, "val_loss")
    assert record.end_time == entry.timestamp


def test_prefects_signal_and_cancellation_are_no_failures() -> None:
    signals = pytest.importorskip("prefect.exceptions")
    assert status_of_error(signals.TerminationSignal(signal.SIGTERM)) == "KILLED"
    assert status_of_error(signals.CancelledRun()) == "KILLED"
    assert status_of_error(GeneratorExit()) == "KILLED"
    assert status_of_error(SystemExit(None)) == "FINISHED"


@pytest.fixture
def dead_pid() -> int:
    """The number of a process that has ended."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


@pytest.fixture
def left_running(store: Store, experiment: str) -> Iterator[str]:
    """A run that is RUNNING in MLflow and has no journal here, as another home's would be."""
    tags = {names.KIND: names.CELL, names.UID: uuid.uuid4().hex}
    run_id = upload.run_of(store, opening_operation(experiment, "tubes", "run", tags))
    yield run_id
    store.client.set_terminated(run_id)


def test_a_living_process_keeps_its_run(store: Store, left_running: str) -> None:
    assert left_running not in {record.run_id for record in settle_runs(store)}
    assert store.get(left_running).status == "RUNNING"


@pytest.mark.parametrize("tag", [liveness.HOST, liveness.MACHINE, liveness.NAMESPACE])
def test_a_run_of_another_host_or_container_stays(
    store: Store, left_running: str, dead_pid: int, tag: str
) -> None:
    store.set_tags(left_running, {liveness.PID: str(dead_pid), tag: "elsewhere"})
    assert settle_runs(store) == []
    assert store.get(left_running).status == "RUNNING"


@pytest.mark.parametrize("tag", [liveness.BOOT, liveness.STARTED])
def test_a_number_that_another_process_has_by_now_does_not_keep_a_run_alive(
    store: Store, left_running: str, tag: str
) -> None:
    store.set_tags(left_running, {tag: "1"})
    (settled,) = settle_runs(store)
    assert (settled.run_id, settled.status) == (left_running, "KILLED")


def test_settling_twice_changes_nothing(store: Store, left_running: str, dead_pid: int) -> None:
    store.set_tags(left_running, {liveness.PID: str(dead_pid)})
    assert len(settle_runs(store)) == 1
    ended = store.get(left_running)
    assert settle_runs(store) == []
    assert store.get(left_running) == ended


def test_a_child_that_waits_for_its_parent_is_gone(store: Store) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    tags = {
        **liveness.identity(),
        liveness.PID: str(child.pid),
        liveness.STARTED: "1",
    }
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert liveness.started(child.pid) is None
    assert liveness.is_gone(tags)
    child.wait()


def test_only_finished_runs_hand_over_members(store: Store, left_running: str) -> None:
    from minivess.tracking.store import fold_models

    with pytest.raises(StoreError, match="RUNNING; only FINISHED"):
        fold_models.fetch(store, [left_running], store.home.cells)


def test_names_of_kinds_have_a_log_file_each() -> None:
    from minivess.runtime import logs
    from minivess.tracking.run import required_fields

    assert set(logs.MAIN) == set(EXPERIMENT_NOTES) == set(required_fields.KINDS)


def test_the_log_of_a_run_holds_what_the_command_said_before_it_and_within(
    store: Store, open_run: OpenRun
) -> None:
    course = logging.getLogger(logs.COURSE)
    logs.before.records.clear()
    course.info("dynunet: patch 48x48x5; forecast 2.6 min")
    course.warning("vol03: empty label", extra={"category": "data"})
    with open_run() as parent, open_run(parent=parent) as run:
        course.info("dynunet fold 0 epoch 1/12")
    course.info("after the run")
    for one in (parent, run):
        main = store.read_text(one.run_id, "logs/train.log")
        assert all(word in main for word in ("forecast", "vol03", "1/12"))
        assert "after the run" not in main
    warned = store.read_text(run.run_id, "logs/warnings.log")
    assert "[data] minivess.course: vol03: empty label" in warned
    assert "forecast" not in warned
