"""The four flows as deployments: registered by `prefect deploy`, run by a worker of the pool."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from prefect.client.orchestration import get_client
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


def runs() -> list[str | None]:
    """States of all flow runs named profile-data; a flow opened twice stands here twice."""
    name = FlowFilter(name=FlowFilterName(any_=["profile-data"]))
    with get_client(sync_client=True) as client:
        return [run.state_name for run in client.read_flow_runs(flow_filter=name)]


def profiled(home: Home) -> Run:
    """The one profile run, as a bare MLflow client sees it."""
    client = MlflowClient(f"sqlite:///{home.database}")
    experiment = client.get_experiment_by_name(names.PROFILE_EXPERIMENT)
    (run,) = client.search_runs([experiment.experiment_id])
    return run
