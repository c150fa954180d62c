"""A real worker of the pool `k8s-gpu` against the HTTP interface of Kubernetes, played by a server.

No cluster is to be had here: what the worker sends is held against the strict schema.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate

from minivess.config import Environment
from minivess.home import Home
from minivess.orchestration import prefect_client
from minivess.runtime.servers import Server
from tests.orchestration.workers import working

pytestmark = pytest.mark.slow

POOL = "k8s-gpu"
TEMPLATE = Path(__file__).resolve().parents[2] / "deployments" / "pools" / f"{POOL}.json"
JOBS = "/apis/batch/v1/namespaces/default/jobs"


def resources(version: str, name: str, kind: str) -> dict[str, Any]:
    """What an API group says that it has."""
    one = {"name": name, "singularName": kind.lower(), "namespaced": True, "kind": kind,
           "verbs": ["create", "delete", "get", "list", "watch", "patch"]}  # fmt: skip
    return {"kind": "APIResourceList", "groupVersion": version, "resources": [one]}


BATCH = {"groupVersion": "batch/v1", "version": "v1"}
KNOWN: dict[str, Any] = {
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/apis": {
        "kind": "APIGroupList",
        "groups": [{"name": "batch", "versions": [BATCH], "preferredVersion": BATCH}],
    },
    "/api/v1": resources("v1", "pods", "Pod"),
    "/apis/batch/v1": resources("batch/v1", "jobs", "Job"),
}


class Cluster(ThreadingHTTPServer):
    """Takes jobs."""

    daemon_threads = True

    def __init__(self) -> None:
        self.jobs: list[dict[str, Any]] = []
        super().__init__(("127.0.0.1", 0), Door)


class Door(BaseHTTPRequestHandler):
    """The requests that the worker makes."""

    server: Cluster

    def do_GET(self) -> None:
        listed = {"kind": "List", "metadata": {"resourceVersion": "1"}, "items": []}
        self.answer(KNOWN.get(self.path.partition("?")[0], listed))

    def do_POST(self) -> None:
        body = self.body()
        if self.path.partition("?")[0] == JOBS:
            self.server.jobs.append(body)
            body = {**body, "metadata": {**body["metadata"], "name": "job", "uid": "j"}}
        self.answer(body)

    def body(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(
            self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}"
        )
        return found

    def answer(self, content: dict[str, Any]) -> None:
        text = json.dumps(content).encode()
        self.send_response(200)
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


def test_a_worker_submits_a_job_that_the_schema_takes(
    served: tuple[Home, Server], cluster: Cluster, tmp_path: Path
) -> None:
    pytest.importorskip("prefect_kubernetes", reason="pip install prefect-kubernetes")
    schema = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
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
        run = client.create_flow_run_from_deployment(deployment)
        with working(POOL, "kubernetes", log, **variables):
            wait_for(lambda: cluster.jobs, log)
            (job,) = cluster.jobs
    schema.validate(job, "1.31", strict=True)
    assert job["metadata"]["labels"]["prefect.io/flow-run-id"] == str(run.id)
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["args"] == ["prefect", "flow-run", "execute"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert pod["nodeSelector"] == {"gpu": "true"}
    environment = {one["name"]: one["value"] for one in container["env"]}
    assert environment["PREFECT__FLOW_RUN_ID"] == str(run.id)
