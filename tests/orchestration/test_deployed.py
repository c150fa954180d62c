"""New data on a real Prefect server and worker: watched, told, profiled once, on to training."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas import FlowRun
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.exceptions import PrefectHTTPStatusError

from flows import watch
from minivess import config, names
from minivess.cli import main
from minivess.config import Environment, changed_environment, child_environment
from minivess.home import Home, open_home
from minivess.orchestration import alerts, prefect_client
from minivess.orchestration.session import open_session
from minivess.runtime.servers import Server
from minivess.stages.train import train
from tests.commands import Command
from tests.conftest import tube, write_nifti
from tests.orchestration.workers import working

pytestmark = pytest.mark.slow

CLONE = Path(__file__).resolve().parents[2]
POOL = "local-process"
PROFILE_TRIGGER, TRAINING_TRIGGER = (
    "minivess new data to profile",
    "minivess new profile to training",
)
SMOKE = ("configs/experiments/smoke.yaml", "training.max_epochs=1", "data.watch_interval_s=3")


@dataclass(frozen=True)
class Story:
    """What everybody involved says after two watchers saw new data, and a webhook a bad folder."""

    root: Path
    env: Environment
    deployments: set[str]
    automations: dict[str, bool]
    flows: dict[str, list[FlowRun]]
    profiles: list[Run]
    files: set[str]
    families: list[Run]
    shown: dict[str, str]
    variables: dict[str, Any]
    events: dict[str, list[dict[str, Any]]]
    notices: list[dict[str, str]]
    asked_again: list[dict[str, Any]]
    schedules: set[tuple[bool, timedelta]]
    lines: list[str]
    form: dict[str, Any]
    refused: str
    health: dict[str, Any]


@pytest.fixture(scope="module")
def story(
    served: tuple[Home, Server],
    stock: Callable[[Home], None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Story]:
    """One server, one worker, two watchers of a folder that is filled later, one webhook."""
    folder = tmp_path_factory.mktemp("new")
    root, home = folder / "vessels", open_home(folder / "home")
    root.mkdir()
    stock(home)
    surroundings: dict[str, str | None] = {
        "MLFLOW_TRACKING_URI": None,
        "PREFECT_API_URL": served[1].api,
        "PREFECT_HOME": str(served[0].prefect),
        "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "MINIVESS_HOME": str(home.root),
        "PYTHONPATH": f"{CLONE / 'src'}:{CLONE}",
        "PWD": str(CLONE),
    }
    with ExitStack() as stack:
        stack.enter_context(prefect_client.client(served[0], Environment()))
        stack.enter_context(changed_environment(**surroundings))
        client = stack.enter_context(get_client(sync_client=True))
        url, notices = stack.enter_context(listener())
        stack.enter_context(working(POOL, "process", home.root / "worker.log"))
        for number in range(2):
            watching = ("watch", *SMOKE, f"data.root={root}")
            watcher = Command(watching, child_environment(), home.root / f"watcher{number}")
            stack.callback(watcher.send_signal, signal.SIGKILL)
        assert main.main(["notify", url]) == 0
        wait_for(lambda: any(pool.name == POOL for pool in client.read_work_pools()))
        deploy = ("deploy", "--prefect-file", "deployments/prefect.yaml", "--all")
        subprocess.run(
            [sys.executable, "-m", "prefect", "--no-prompt", *deploy],
            cwd=CLONE, env=child_environment(), capture_output=True, check=True,
        )  # fmt: skip
        before = automations(client)
        client.resume_automation(client.read_automations_by_name(TRAINING_TRIGGER)[0].id)

        for index in range(4):
            image, mask = tube((24, 24 + 2 * index, 8), seed=index)
            write_nifti(root / "images" / f"v{index}.nii.gz", image)
            write_nifti(root / "labels" / f"v{index}.nii.gz", mask)
        webhook(root.with_name("nowhere"))
        webhook(root.with_name("typed"), '["data.root=/data/vessels"]', "5")
        wait_for(lambda: bool(alerts.refused(served[1].api)))
        wait_for(lambda: ended(client, "profile-data") == ["Completed", "Completed", "Failed"])
        wait_for(lambda: ended(client, "train") == ["Completed"])
        wait_for(lambda: bool(notices))
        words = (SMOKE[1], f"data.root={root}")
        with redirect_stdout(StringIO()) as said:
            assert main.main(["data-changed", SMOKE[0], *words, "--json"]) == 0
            main.main(["health", "--json"])
        answer, health = map(json.loads, said.getvalue().splitlines()[-2:])

        store = MlflowClient(f"sqlite:///{home.database}")
        profiles = runs(store, names.PROFILE_EXPERIMENT)
        yield Story(
            root=root,
            env=Environment(home=home.root, prefect_api_url=served[1].api),
            deployments=deployments(client),
            automations=before,
            flows={name: flow_runs(client, name) for name in ("profile-data", "train")},
            profiles=profiles,
            files=files(store, profiles[0].info.run_id),
            families=[
                run for run in runs(store, "vessels-smoke") if names.PARENT not in run.data.tags
            ],
            shown={str(made.key): str(made.type) for made in client.read_artifacts()},
            variables={
                name: client.read_variable_by_name(name).value
                for name in ("latest_data_profile", "data_profile-vessels")
            },
            events={
                name: events(client, name) for name in (names.DATA_CHANGED, names.DATA_PROFILED)
            },
            notices=notices,
            asked_again=[
                answer,
                watch.watch_data(settings=words, files=SMOKE[:1]),
            ],
            schedules={
                (schedule.active, getattr(schedule.schedule, "interval", None))
                for schedule in client.read_deployment_by_name("watch-data/local").schedules
            },
            lines=printed(client, flow_runs(client, "train")[0]),
            form=client.read_deployment_by_name("train/local").parameter_openapi_schema or {},
            refused=refused(client, {"training_max_epochs": 0}),
            health=health,
        )


def test_every_flow_is_deployed_and_only_training_waits_for_somebody(story: Story) -> None:
    flows = (
        "profile-data", "watch-data", "train", "train-cell", "analyse", "deploy", "experiment",
    )  # fmt: skip
    assert story.deployments == {f"{name}/local" for name in flows}
    assert story.automations[PROFILE_TRIGGER]
    assert not story.automations[TRAINING_TRIGGER]


def test_no_flow_holds_a_lease_whose_loss_would_cancel_it(story: Story) -> None:
    states = [run.state for named in story.flows.values() for run in named if run.state]
    assert states
    assert not any(state.state_details.deployment_concurrency_lease_id for state in states)


def test_two_watchers_of_new_data_make_exactly_one_profile_run(story: Story) -> None:
    seen = [event for event in story.events[names.DATA_CHANGED] if "key" in event["payload"]]
    assert len(seen) == 2
    assert len({event["payload"]["key"] for event in seen}) == 1
    (run,) = story.profiles
    assert run.info.status == "FINISHED"
    assert run.data.tags["launched_by"] == "deployment"


def test_the_same_data_again_are_not_announced(story: Story) -> None:
    answer = {"emitted": False, "data_profile_run_id": story.profiles[0].info.run_id}
    assert story.asked_again == [answer, answer]


def test_a_worker_would_look_every_hour_once_it_is_told_to(story: Story) -> None:
    assert story.schedules == {(False, timedelta(hours=1))}


def test_the_new_profile_goes_on_to_training_once_with_the_same_settings(story: Story) -> None:
    (trained,) = story.flows["train"]
    profile = story.profiles[0].info.run_id
    assert trained.parameters["upstream"] == [profile]
    assert f"data.root={story.root}" in trained.parameters["settings"]
    (family,) = story.families
    assert family.info.status == "FINISHED"
    assert family.data.params[names.UPSTREAM_PROFILE] == profile
    assert family.data.params["max_epochs"] == "1"


def test_the_profile_leaves_everything_where_it_is_looked_for(story: Story) -> None:
    (run,) = story.profiles
    assert {
        "dataset/dataset_profile.json", "dataset/findings.json", "dataset/review.json",
        "dataset/gallery.html", "dataset/curated.dvc", "figures/shapes.png",
        "figures/spacings.png", "figures/intensities.png", "figures/foreground.png",
    } <= story.files  # fmt: skip
    assert run.data.params["data_n_volumes"] == "4"
    assert run.data.metrics["n_volumes"] == 4
    pointer = {
        "run_id": run.info.run_id,
        "dataset_hash": run.data.params[names.DATASET_HASH],
        "dataset": "vessels",
    }
    assert story.variables == {"latest_data_profile": pointer, "data_profile-vessels": pointer}
    assert story.shown["volumes"] == "table"
    assert story.shown["data-profile"] == "markdown"
    (event,) = story.events[names.DATA_PROFILED]
    assert event["resource"]["prefect.resource.id"] == "minivess.dataset.vessels"
    assert pointer.items() <= event["payload"].items()


def test_the_page_says_what_a_deployed_run_does_and_what_it_printed(story: Story) -> None:
    (trained,) = story.flows["train"]
    assert trained.name == "train · vessels-smoke · 1 model x 2 folds"
    assert {"minivess", "vessels", "vessels-smoke"} <= set(trained.tags)
    lines = story.lines
    assert any(line.startswith("Train     1 family") for line in lines)
    assert sum("epoch 1/1" in line for line in lines) == 2
    assert not any(" step " in line for line in lines if "timing" not in line)


def test_the_form_of_a_flow_is_made_of_the_settings_and_refuses_a_wrong_one(story: Story) -> None:
    fields = story.form["properties"]
    assert list(fields)[:4] == ["settings", "files", "upstream", "data_root"]
    assert (fields["training_folds"]["type"], fields["training_folds"]["minimum"]) == ("integer", 2)
    assert {"dynunet", "segresnet"} <= set(fields["training_models"]["items"]["enum"])
    assert fields["training_max_epochs"]["default"] == 100
    assert fields["training_max_epochs"]["description"].startswith("training.max_epochs: ")
    assert "0 is less than the minimum of 1" in story.refused


def test_health_shows_the_event_of_which_prefect_made_no_run(story: Story) -> None:
    (event,) = story.health["refused_events"]
    assert event["automation"] == PROFILE_TRIGGER
    assert "settings" in event["reason"]
    assert "minivess data-changed" in event["fix"]


def test_a_flow_that_fails_is_told_to_the_address_given(story: Story) -> None:
    (notice,) = story.notices
    assert notice["text"].startswith("profile-data Failed")
    assert "nowhere" in notice["text"]


def test_the_cells_of_a_grid_train_on_the_work_pool_and_a_killed_one_is_taken_up_again(
    story: Story, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"data.root={story.root}", "name=pool", "training.deployment=train-cell/local"]
    asked = config.load([CLONE / SMOKE[0]], words, story.env)
    with open_session(asked, story.env, yes=True) as session:
        killing = threading.Thread(target=kill_a_cell, args=(session.store.client, "pool"))
        killing.start()
        (family,) = train(session).families
        killing.join()
        found = [session.store.get(one) for one in (family.run_id, *family.child_run_ids)]
        with get_client(sync_client=True) as client:
            assert ended(client, "train-cell") == ["Completed", "Completed", "Failed"]
    assert "lost its process and is sent to the pool again" in capsys.readouterr().out
    assert [run.status for run in found] == ["FINISHED"] * 3
    # The coordinator's process, and one for each cell.
    assert len({run.tags["minivess.pid"] for run in found}) == 3


# --- asking -------------------------------------------------------------------------------


def automations(client: SyncPrefectClient) -> dict[str, bool]:
    """Name of each automation, and whether it is on."""
    answer = client.request("POST", "/automations/filter", json={})
    return {each["name"]: each["enabled"] for each in answer.json()}


def deployments(client: SyncPrefectClient) -> set[str]:
    """Flow and deployment names of our work pool, as the server knows them."""
    found = [made for made in client.read_deployments() if made.work_pool_name == POOL]
    return {f"{client.read_flow(made.flow_id).name}/{made.name}" for made in found}


def printed(client: SyncPrefectClient, run: FlowRun) -> list[str]:
    """Our own lines in the log of a flow run."""
    only = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id]))
    found = client.read_logs(only, limit=200)
    return [entry.message.strip() for entry in found if entry.name.startswith("minivess")]


def refused(client: SyncPrefectClient, form: dict[str, Any]) -> str:
    """What the server answers to a form that is filled in wrongly."""
    made = client.read_deployment_by_name("train/local").id
    with pytest.raises(PrefectHTTPStatusError) as answer:
        client.create_flow_run_from_deployment(made, parameters=form)
    return str(answer.value.response.text)


def flow_runs(client: SyncPrefectClient, flow: str) -> list[FlowRun]:
    """The runs of a flow that a deployment made."""
    made = client.read_deployment_by_name(f"{flow}/local").id
    # Without a filter the server gives the first 200 of everybody's.
    return client.read_flow_runs(
        deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[made]))
    )


def ended(client: SyncPrefectClient, flow: str) -> list[str | None]:
    """Where the runs of a flow stand; none may have crashed."""
    runs = flow_runs(client, flow)
    assert not [run.state.message for run in runs if run.state and run.state.is_crashed()]
    return sorted(run.state_name or "" for run in runs)


def events(client: SyncPrefectClient, name: str) -> list[dict[str, Any]]:
    """Every event of a name that the server heard."""
    wanted = {"filter": {"event": {"name": [name]}}, "limit": 50}
    found: list[dict[str, Any]] = client.request("POST", "/events/filter", json=wanted).json()[
        "events"
    ]
    return [event for event in found if "vessels" in event["resource"]["prefect.resource.id"]]


def runs(store: MlflowClient, experiment: str) -> list[Run]:
    """Every run of an experiment, as a bare MLflow client sees them."""
    found = store.get_experiment_by_name(experiment)
    return list(store.search_runs([found.experiment_id]))


def files(store: MlflowClient, run_id: str, path: str | None = None) -> set[str]:
    """Every artifact of a run."""
    listed = store.list_artifacts(run_id, path)
    return {item.path for item in listed if not item.is_dir}.union(
        *(files(store, run_id, item.path) for item in listed if item.is_dir)
    )


# --- acting -------------------------------------------------------------------------------


@contextmanager
def listener() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """An address that takes JSON, and what came there."""
    heard: list[dict[str, str]] = []

    class Ear(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *words: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Ear) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/", heard
        server.shutdown()


def webhook(root: Path, *other: str) -> None:
    """Send the event as the page for data engineers shows it, about another folder."""
    page = (CLONE / "docs" / "data-engineer.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^    curl (?:.*\n)(?:    .*\n)*", page, flags=re.MULTILINE)
    command = command.replace(*other) if other else command
    subprocess.run(["bash", "-c", command.replace("/data/vessels", str(root))], check=True)


def kill_a_cell(store: MlflowClient, experiment: str) -> None:
    """Kill the process of the first cell that trains."""
    while store.get_experiment_by_name(experiment) is None:
        time.sleep(0.1)
    while True:
        for run in runs(store, experiment):
            if names.PARENT in run.data.tags and run.info.status == "RUNNING":
                return os.kill(int(run.data.tags["minivess.pid"]), signal.SIGKILL)
        time.sleep(0.1)


def wait_for(reached: Callable[[], bool], limit_s: float = 900) -> None:
    """Wait until something is so; a machine with eight times too much to do takes minutes."""
    end = time.monotonic() + limit_s
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.7)
