"""The four flows as deployments: registered by `prefect deploy`, run by a worker of the pool."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from prefect.client.orchestration import get_client
from prefect.client.schemas import FlowRun
from prefect.client.schemas.filters import FlowFilter, FlowFilterName

from flows import connection
from flows.processes import Server
from minivess import names
from minivess.config import Environment, child_environment
from minivess.home import Home

CLONE = Path(__file__).resolve().parents[2]
POOL = "local-process"


@pytest.fixture
def prefect(served: tuple[Home, Server], home: Home) -> Iterator[Callable[..., str]]:
    """Prefect's command line on the shared server, as a user in the clone calls it."""
    server_home, server = served
    env = child_environment(
        PREFECT_API_URL=server.api,
        PREFECT_HOME=str(server_home.prefect),
        MINIVESS_HOME=str(home.root),
        PWD=str(CLONE),
        PREFECT_SERVER_EPHEMERAL_ENABLED="false",
    )

    def run(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "prefect", "--no-prompt", *words],
            cwd=CLONE, env=env, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    with connection.client(server_home, Environment()):
        yield run


@pytest.fixture
def started(
    served: tuple[Home, Server], home: Home
) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start commands that run on; they and what they started are ended afterwards."""
    server_home, server = served
    env = child_environment(
        PREFECT_API_URL=server.api,
        PREFECT_HOME=str(server_home.prefect),
        MINIVESS_HOME=str(home.root),
        PREFECT_SERVER_EPHEMERAL_ENABLED="false",
        PREFECT_WORKER_QUERY_SECONDS="1",
        PYTHONPATH=f"{CLONE / 'src'}:{CLONE}",
    )
    running: list[subprocess.Popen[bytes]] = []

    def start(*words: str) -> subprocess.Popen[bytes]:
        with (home.root / f"started-{len(running)}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *words],
                cwd=CLONE, env=env, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        running.append(process)
        return process

    try:
        yield start
    finally:
        for process in running:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.mark.slow
def test_new_data_makes_exactly_one_profile_run_although_two_watch(
    prefect: Callable[..., str],
    started: Callable[..., subprocess.Popen[bytes]],
    make_dataset: Callable[..., Path],
    home: Home,
) -> None:
    root = make_dataset(n=4)
    prefect("work-pool", "create", POOL, "--type", "process", "--overwrite")
    prefect("deploy", "--prefect-file", "deployments/prefect.yaml", "--all")
    assert automations() == {
        "minivess new data to profile": True,
        "minivess new profile to training": False,
    }
    prefect("automation", "resume", "minivess new profile to training")
    before, completed = (len(runs()), len(runs("train"))), runs().count("Completed")

    watching = ("flows.cli", "watch", f"data.root={root}", "data.watch_interval_s=1")
    started(*watching)
    started(*watching)
    started("prefect", "worker", "start", "--pool", POOL, "--type", "process")
    wait_for(lambda: runs().count("Completed") == completed + 2)
    run = profiled(home)
    assert run.info.status == "FINISHED"

    # On to training, with the same settings and the run that was made.
    wait_for(lambda: len(runs("train")) > before[1])
    assert len(runs("train")) == before[1] + 1
    assert parameters("train") == {
        "settings": [f"data.root={root}", "data.watch_interval_s=1.0"],
        "upstream": [run.info.run_id],
    }

    # The same files again: no event, so no further flow run.
    told = subprocess.run(
        [sys.executable, "-m", "flows.cli", "data-changed", f"data.root={root}", "--json"],
        cwd=CLONE, env=child_environment(MINIVESS_HOME=str(home.root)),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(told.stdout)["emitted"] is False
    assert len(runs()) == before[0] + 2
    assert profiled(home).info.run_id == run.info.run_id


def test_a_worker_of_the_pool_runs_a_deployed_flow_to_a_finished_run(
    prefect: Callable[..., str], make_dataset: Callable[..., Path], home: Home
) -> None:
    prefect("work-pool", "create", POOL, "--type", "process", "--overwrite")
    prefect("deploy", "--prefect-file", "deployments/prefect.yaml", "--all")
    assert deployed() == {
        f"{name}/local" for name in ("profile-data", "train", "analyse", "deploy")
    }

    before = runs()
    settings = json.dumps([f"data.root={make_dataset(n=4)}"])
    prefect("deployment", "run", "profile-data/local", "--param", f"settings={settings}")
    prefect("worker", "start", "--pool", POOL, "--type", "process", "--run-once")

    run = profiled(home)
    assert run.info.status == "FINISHED"
    assert run.data.tags["launched_by"] == "deployment"
    assert len(runs()) == len(before) + 1
    assert runs().count("Completed") == before.count("Completed") + 1


def deployed() -> set[str]:
    """Flow and deployment names, as the server knows them."""
    with get_client(sync_client=True) as client:
        found = client.read_deployments()
        return {f"{client.read_flow(made.flow_id).name}/{made.name}" for made in found}


def runs(flow: str = "profile-data") -> list[str | None]:
    """States of all runs of a flow, oldest first; a flow opened twice stands here twice."""
    return [run.state_name for run in flow_runs(flow)]


def parameters(flow: str) -> dict[str, object]:
    """What the newest run of a flow was given."""
    return dict(flow_runs(flow)[-1].parameters)


def flow_runs(flow: str) -> list[FlowRun]:
    name = FlowFilter(name=FlowFilterName(any_=[flow]))
    with get_client(sync_client=True) as client:
        found = client.read_flow_runs(flow_filter=name)
    return sorted(found, key=lambda run: run.created)


def automations() -> dict[str, bool]:
    """Name of each automation, and whether it is on."""
    with get_client(sync_client=True) as client:
        answer = client.request("POST", "/automations/filter", json={})
        return {each["name"]: each["enabled"] for each in answer.json()}


def wait_for(reached: Callable[[], bool], limit_s: float = 300) -> None:
    """Wait until something is so."""
    end = time.monotonic() + limit_s
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.5)


def profiled(home: Home) -> Run:
    """The one profile run, as a bare MLflow client sees it."""
    client = MlflowClient(f"sqlite:///{home.database}")
    experiment = client.get_experiment_by_name(names.PROFILE_EXPERIMENT)
    (run,) = client.search_runs([experiment.experiment_id])
    return run
