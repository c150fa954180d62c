"""A real worker of the pool `k8s-gpu` against the HTTP interface of Kubernetes, played by a server.

No cluster is to be had here: what the worker sends is held against the strict schema. A worker of
Prefect 3.8 deletes no job of a cancelled run that it has submitted: it forgets the run by then, and
the run's own pod ends itself.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas import FlowRun
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.states import Running

from minivess.config import Environment
from minivess.home import Home
from minivess.orchestration import prefect_client
from minivess.runtime.servers import Server
from tests.orchestration.workers import working

pytestmark = pytest.mark.slow

POOL = "k8s-gpu"
TEMPLATE = Path(__file__).resolve().parents[2] / "deployments" / "pools" / f"{POOL}.json"
JOBS = "/apis/batch/v1/namespaces/default/jobs"


def resources(version: str, **kinds: str) -> dict[str, Any]:
    """What an API group says that it has."""
    listed = [
        {"name": name, "singularName": kind.lower(), "namespaced": name != "namespaces",
         "kind": kind, "verbs": ["create", "delete", "get", "list", "watch", "patch"]}
        for name, kind in kinds.items()
    ]  # fmt: skip
    return {"kind": "APIResourceList", "groupVersion": version, "resources": listed}


BATCH = {"groupVersion": "batch/v1", "version": "v1"}
KNOWN: dict[str, Any] = {
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/apis": {
        "kind": "APIGroupList",
        "groups": [{"name": "batch", "versions": [BATCH], "preferredVersion": BATCH}],
    },
    # The worker's observer lists nothing before it has found the resource `namespaces`.
    "/api/v1": resources("v1", pods="Pod", namespaces="Namespace"),
    "/apis/batch/v1": resources("batch/v1", jobs="Job"),
}


class Cluster(ThreadingHTTPServer):
    """Takes jobs, and tells who watches what becomes of them."""

    daemon_threads = True

    def __init__(self) -> None:
        self.jobs: list[dict[str, Any]] = []
        self.streams: dict[str, SimpleQueue[dict[str, Any]]] = {
            kind: SimpleQueue() for kind in ("pods", "jobs")
        }
        super().__init__(("127.0.0.1", 0), Door)

    def tell(self, what: str, kind: str, job: dict[str, Any], **status: object) -> None:
        """Let the watchers of `pods` or `jobs` know what became of a job, or of its pod."""
        metadata = {**job["metadata"], "name": kind, "uid": kind, "resourceVersion": "2"}
        thing = {"metadata": metadata, "spec": job["spec"], "status": status}
        self.streams[kind].put({"type": what, "object": thing})


class Door(BaseHTTPRequestHandler):
    """The requests that the worker makes."""

    server: Cluster

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if "watch=true" in query:
            self.stream(self.server.streams[path.rpartition("/")[2]])
        elif path.startswith(f"{JOBS}/"):
            self.answer({"kind": "Status", "code": 404}, 404)
        else:
            listed = {"kind": "List", "metadata": {"resourceVersion": "1"}, "items": []}
            self.answer(KNOWN.get(path, listed))

    def do_POST(self) -> None:
        body, number = self.body(), len(self.server.jobs)
        if self.path.partition("?")[0] == JOBS:
            self.server.jobs.append(body)
            made = {"name": f"job-{number}", "uid": f"job-{number}"}
            body = {**body, "metadata": {**body["metadata"], **made}}
        self.answer(body)

    def stream(self, events: SimpleQueue[dict[str, Any]]) -> None:
        """Send what happens, a line each, until nobody listens."""
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        with suppress(OSError):
            while True:
                self.wfile.write(json.dumps(events.get()).encode() + b"\n")

    def body(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(
            self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}"
        )
        return found

    def answer(self, content: dict[str, Any], code: int = 200) -> None:
        text = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *words: object) -> None:
        """Say nothing."""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster, and the file that leads the worker to it."""
    with Cluster() as made:
        Thread(target=made.serve_forever, daemon=True).start()
        there = {"server": f"http://127.0.0.1:{made.server_port}"}
        context = {"cluster": "c", "user": "u", "namespace": "default"}
        written = {
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": there}],
            "contexts": [{"name": "c", "context": context}],
            "users": [{"name": "u", "user": {"token": "t"}}],
        }  # fmt: skip
        (tmp_path / "kubeconfig").write_text(json.dumps(written))
        yield made
        made.shutdown()


def wait_for(reached: Callable[[], object], log: Path) -> None:
    """Wait until something is so."""
    end = time.monotonic() + 120
    while not reached():
        assert time.monotonic() < end, log.read_text()[-3000:]
        time.sleep(0.3)


@dataclass(frozen=True)
class Story:
    """What is known of two flow runs: the pod of one fails, the job of the other is deleted."""

    runs: list[FlowRun]
    jobs: list[dict[str, Any]]
    pod_events: list[dict[str, Any]]


def state_of(client: SyncPrefectClient, run: FlowRun) -> str | None:
    return client.read_flow_run(run.id).state_name


def heard(client: SyncPrefectClient) -> list[dict[str, Any]]:
    """Events of pods that the worker told Prefect."""
    wanted = {"filter": {"event": {"prefix": ["prefect.kubernetes.pod."]}}}
    answer = client.request("POST", "/events/filter", json=wanted)
    found: list[dict[str, Any]] = answer.json()["events"]
    return found


@pytest.fixture
def story(served: tuple[Home, Server], cluster: Cluster, tmp_path: Path) -> Story:
    """A worker, its pool, and two flow runs of a deployment on it."""
    pytest.importorskip("prefect_kubernetes", reason="pip install prefect-kubernetes")
    log = tmp_path / "worker.log"
    variables = {
        "KUBECONFIG": str(tmp_path / "kubeconfig"), "PREFECT_API_URL": served[1].api,
        "PREFECT_HOME": str(tmp_path / "prefect"), "PREFECT_WORKER_QUERY_SECONDS": "1",
    }  # fmt: skip
    template = json.loads(TEMPLATE.read_text())
    with prefect_client.client(served[0], Environment()), get_client(sync_client=True) as client:
        client.create_work_pool(
            WorkPoolCreate(name=POOL, type="kubernetes", base_job_template=template)
        )
        deployment = client.create_deployment(
            client.create_flow_from_name("train"), "kubernetes", work_pool_name=POOL,
            entrypoint="flows/train.py:train",
        )  # fmt: skip
        runs = [client.create_flow_run_from_deployment(deployment) for _ in range(2)]
        with working(POOL, "kubernetes", log, **variables):
            wait_for(lambda: len(cluster.jobs) == len(runs), log)
            jobs = {job["metadata"]["labels"]["prefect.io/flow-run-id"]: job
                    for job in cluster.jobs}  # fmt: skip
            failed, deleted = (jobs[str(run.id)] for run in runs)
            cluster.tell("MODIFIED", "pods", failed, phase="Running")
            wait_for(lambda: heard(client), log)
            ids = [run.id for run in runs]
            wait_for(lambda: all(client.read_flow_run(i).infrastructure_pid for i in ids), log)
            for run in runs:
                client.set_flow_run_state(run.id, Running(), force=True)
            cluster.tell("MODIFIED", "jobs", failed, failed=1)
            cluster.tell("DELETED", "jobs", deleted)
            wait_for(lambda: {state_of(client, run) for run in runs} == {"Crashed"}, log)
            events = heard(client)
        found = [client.read_flow_run(run.id) for run in runs]
    return Story(found, [jobs[str(run.id)] for run in runs], events)


def test_a_worker_submits_a_valid_job_and_watches_what_becomes_of_it(story: Story) -> None:
    schema = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    job, run = story.jobs[0], story.runs[0]
    schema.validate(job, "1.31", strict=True)
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["args"] == ["prefect", "flow-run", "execute"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert pod["nodeSelector"] == {"gpu": "true"}
    environment = {one["name"]: one["value"] for one in container["env"]}
    assert environment["PREFECT__FLOW_RUN_ID"] == str(run.id)

    # The worker watches what becomes of its pods and jobs.
    assert story.pod_events[0]["event"] == "prefect.kubernetes.pod.running"
    messages = [str(run.state.message) for run in story.runs if run.state]
    assert messages == [
        "No active or succeeded pods found for any job", "Kubernetes job was deleted",
    ]  # fmt: skip
