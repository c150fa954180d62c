"""However a process ends, MLflow and Prefect agree about it, children included, and say why.

The table in docs/tracking.md is made of the same rows.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun, State, StateType, TaskRun
from prefect.states import Cancelling

from minivess import config, names
from minivess.config import Environment, TrackingConfig
from minivess.contracts import RunRecord
from minivess.home import Home, open_home
from minivess.orchestration import prefect_client
from minivess.orchestration.session import open_orchestrator
from minivess.runtime.servers import Server
from minivess.tracking.run import dead_runs
from minivess.tracking.store.store import Store, open_store
from tests.faults.limits import memory_group

pytestmark = pytest.mark.slow

CLONE = Path(__file__).resolve().parents[2]
PROGRAM = Path(__file__).with_name("lifecycle_program.py")
LIMIT_S = 600
PARENT = "parent dies, child lives"
SIGNALS = {
    "Ctrl-C": signal.SIGINT,
    "SIGTERM": signal.SIGTERM,
    "SIGHUP": signal.SIGHUP,
    "kill -9": signal.SIGKILL,
    PARENT: signal.SIGKILL,
}
# way: MLflow's status, its error_type, Prefect's state
ENDS = {
    "return": ("FINISHED", None, "COMPLETED"),
    "exit 0": ("FINISHED", None, "COMPLETED"),
    "exception": ("FAILED", "ValueError", "FAILED"),
    "exit 1": ("FAILED", "SystemExit", "FAILED"),
    "Ctrl-C": ("KILLED", "KeyboardInterrupt", "CRASHED"),
    "SIGTERM": ("KILLED", "TerminationSignal", "CRASHED"),
    "SIGHUP": ("KILLED", "Terminated", "CRASHED"),
    "cancelled on Prefect's page": ("KILLED", "Cancelled", "CANCELLED"),
    "kill -9": ("KILLED", "ProcessDied", "CRASHED"),
    "out of memory": ("KILLED", "OutOfMemoryKill", "CRASHED"),
    PARENT: ("KILLED", "ProcessDied", "CRASHED"),
    "cancelled through a worker": ("KILLED", "TerminationSignal", "CANCELLED"),
    "worker dies": ("FINISHED", None, "COMPLETED"),
}
WORKER = [way for way in ENDS if "worker" in way]
COMMAND = [way for way in ENDS if way not in WORKER]


class Scene:
    """A home, its store, and signs from processes that end in some way."""

    def __init__(self, home: Home, server: Server, client: SyncPrefectClient) -> None:
        self.home, self.server, self.client = home, server, client
        self.store: Store = open_store(home, TrackingConfig())
        self.store.experiment_id("endings", dataset="d", note="n")
        self.child = "unknown"
        self.signs = home.root / "signs"
        self.signs.mkdir()
        self.env = config.child_environment(
            MINIVESS_HOME=str(home.root), PREFECT_HOME=str(home.prefect),
            PREFECT_API_URL=server.api, MINIVESS_TEST_SIGNS=str(self.signs),
            PREFECT_SERVER_EPHEMERAL_ENABLED="false", PREFECT_WORKER_QUERY_SECONDS="1",
            PYTHONPATH=os.pathsep.join([str(CLONE), str(CLONE / "src")]),
        )  # fmt: skip

    def heard(self, name: str) -> str:
        """A sign, as soon as it is given."""
        wait_until((self.signs / name).exists)
        return (self.signs / name).read_text()

    def say(self, name: str) -> None:
        (self.signs / name).touch()

    def flow_run(self, way: str) -> FlowRun:
        return self.client.read_flow_run(UUID(self.heard(way).split()[0]))

    def state(self, way: str) -> State:
        state = self.flow_run(way).state
        assert state is not None
        return state

    def tasks(self, way: str) -> list[TaskRun]:
        """The task runs that the server knows of."""
        these = FlowRunFilter(id=FlowRunFilterId(any_=[self.flow_run(way).id]))
        return self.client.read_task_runs(flow_run_filter=these)

    def cancel(self, way: str) -> None:
        """What the button on Prefect's page does."""
        self.client.set_flow_run_state(self.flow_run(way).id, Cancelling())

    def runs(self) -> dict[str, RunRecord]:
        return {run.name: run for run in self.store.search(experiment="endings")}

    def settle(self) -> None:
        dead_runs.settle_runs(self.store)
        env = Environment(prefect_api_url=self.server.api, home=self.home.root)
        with open_orchestrator(self.home, env) as engine:
            engine.settle()


def wait_until(true: Callable[[], object]) -> None:
    """Or fail."""
    limit = time.monotonic() + LIMIT_S
    while not true():
        assert time.monotonic() < limit, "waited too long"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def scene(served: tuple[Home, Server], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Every way carried out: as commands, then through a worker; the dead are settled."""
    with prefect_client.client(served[0], Environment()), get_client(sync_client=True) as client:
        scene = Scene(open_home(tmp_path_factory.mktemp("endings")), served[1], client)
        commands(scene)
        worker(scene)
        scene.settle()
        yield scene


def commands(scene: Scene) -> None:
    """All commands side by side; what they leave is settled while the child lives."""
    with memory_group() as group:
        limit = next(
            group / name
            for name in ("memory.max", "memory.limit_in_bytes")
            if (group / name).exists()
        )
        limit.write_text(str(400 * 2**20))
        done = subprocess.Popen(
            [sys.executable, str(PROGRAM), str(group), *COMMAND],
            env=scene.env, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert done.stdout is not None
        pids = {way: int(done.stdout.readline()) for way in COMMAND}
        scene.heard("living child")
        for way, number in SIGNALS.items():
            wait_until(partial(scene.tasks, way))  # a server hears of tasks a little later
            os.kill(pids[way], number)
        scene.cancel("cancelled on Prefect's page")
        done.stdout.close()
        done.wait(LIMIT_S)
        scene.settle()
    scene.child = scene.runs()["living child"].status
    scene.say("child may end")
    scene.heard("child has ended")


def worker(scene: Scene) -> None:
    """Two flow runs of one worker: one is cancelled, then the worker is killed."""
    from prefect import flow

    words = ["prefect", "worker", "start", "--pool", "endings", "--type", "process"]
    working = subprocess.Popen(
        [sys.executable, "-m", *words], env=scene.env,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    pools = scene.client.read_work_pools
    wait_until(lambda: any(p.name == "endings" and p.base_job_template for p in pools()))
    source: Any = flow.from_source(str(CLONE), f"{PROGRAM.relative_to(CLONE)}:deployed")
    made = source.deploy(
        "endings", work_pool_name="endings", build=False, push=False, print_next_steps=False,
        job_variables={"env": {name: scene.env[name] for name in (
            "MINIVESS_HOME", "PREFECT_HOME", "MINIVESS_TEST_SIGNS", "PYTHONPATH")}},
    )  # fmt: skip
    for way in WORKER:
        scene.client.create_flow_run_from_deployment(made, parameters={"way": way})
    cancelled, dies = WORKER
    for way in WORKER:
        scene.heard(way)
    scene.cancel(cancelled)
    wait_until(lambda: scene.state(cancelled).type == StateType.CANCELLED)
    wait_until(lambda: scene.runs()[cancelled].status != "RUNNING")
    working.kill()
    working.wait()
    scene.say("worker is dead")
    wait_until(lambda: scene.state(dies).is_final())


@pytest.mark.parametrize("way", ENDS)
def test_mlflow_and_prefect_agree_how_a_run_ended_and_why(scene: Scene, way: str) -> None:
    status, error_type, state = ENDS[way]
    for name in (way, f"{way}: fold"):
        run = scene.runs()[name]
        assert (run.status, run.tags["run_status"]) == (status, status)
        assert run.tags.get(names.ERROR_TYPE) == error_type
        assert run.end_time is not None
    assert scene.state(way).type.value == state
    if error_type in (names.PROCESS_DIED, names.OUT_OF_MEMORY_KILL, "SystemExit"):
        assert str(scene.state(way).message).startswith(str(error_type))


@pytest.mark.parametrize("way", ["kill -9", "cancelled on Prefect's page", "return"])
def test_no_task_goes_on_in_a_flow_that_has_ended(scene: Scene, way: str) -> None:
    tasks = scene.tasks(way)
    assert tasks
    assert all(task.state is not None and task.state.is_final() for task in tasks)


def test_a_child_that_outlives_its_parent_is_left_alone_and_ends_by_itself(scene: Scene) -> None:
    assert scene.child == "RUNNING"
    assert scene.runs()["living child"].status == "FINISHED"


def test_settling_again_overturns_nothing(scene: Scene) -> None:
    before = scene.runs(), [scene.state(way) for way in ENDS]
    scene.settle()
    assert (scene.runs(), [scene.state(way) for way in ENDS]) == before


def test_the_page_shows_these_rows(scene: Scene) -> None:
    page = (CLONE / "docs" / "tracking.md").read_text()
    rows = re.findall(r"^\| ([^|]+) \| (\w+) \| `?(\w+|-)`? \| ([A-Z]+) \|", page, re.MULTILINE)
    shown = {way: (status, None if why == "-" else why, state) for way, status, why, state in rows}
    assert shown == ENDS
