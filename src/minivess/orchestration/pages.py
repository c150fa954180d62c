"""Serve the pages of Prefect and MLflow in the foreground (`minivess ui`)."""

from __future__ import annotations

import logging
import sys
import time
from contextlib import ExitStack

from minivess.config import Environment, TrackingConfig, environment
from minivess.errors import OrchestrationError
from minivess.home import Home, lock
from minivess.orchestration import prefect_server
from minivess.runtime import output
from minivess.runtime.servers import (
    HOST,
    Launch,
    Server,
    end_leftover,
    free_port,
    is_free,
    last_line,
    listener,
    read,
    started,
)
from minivess.tracking.store.store import open_store

log = logging.getLogger(__name__)

MLFLOW_PORT = 5000
MLFLOW = "mlflow-server.json"


def serve(
    home: Home,
    tracking: TrackingConfig,
    *,
    env: Environment | None = None,
    prefect_port: int = prefect_server.PREFECT_PORT,
    mlflow_port: int = MLFLOW_PORT,
) -> None:
    """Serve Prefect's and MLflow's pages until Ctrl-C.

    Of a store or a Prefect API given by address only the address is printed.

    Raises:
        OrchestrationError: a port is busy, the pages run already, or a server stopped.
    """
    env = env or environment()
    folder = prefect_server.folder_of(home, env)
    try:
        with ExitStack() as stack:
            with lock(folder / "server.lock", what="start Prefect's server", wait=True):
                prefect = prefect_page(home, env, prefect_port)
                mlflow = mlflow_page(home, tracking, mlflow_port)
                ours = [cleared(p, "ui") for p in (prefect, mlflow) if isinstance(p, Launch)]
                log.info("Starting the pages (the first time takes about 10 to 20 s)")
                servers = [(stack.enter_context(started(launch)), launch) for launch in ours]
            _say(f"Prefect   {_address(prefect)}")
            _say(f"MLflow    {_address(mlflow)}   (choose `Model training` at the top left)")
            _say("Ctrl-C ends both.")
            _watch(servers)
    except KeyboardInterrupt:
        _say("Ended.")


def _say(line: str) -> None:
    output.print_line(sys.stdout, line)


def _address(page: Launch | str) -> str:
    return page if isinstance(page, str) else page.url


def prefect_page(home: Home, env: Environment, port: int) -> Launch | str:
    """How to start Prefect's page, or its address where it runs already."""
    if env.prefect_api_url:
        prefect_server.probe(env.prefect_api_url)
        return env.prefect_api_url.rstrip("/").removesuffix("/api")
    folder = prefect_server.folder_of(home, env)
    return prefect_server.launch(home, folder, port, prefect_server.UI)


def mlflow_page(home: Home, tracking: TrackingConfig, port: int) -> Launch | str:
    """How to start MLflow's page, or its address where it runs already."""
    # Opening the store creates its database, which two processes must not do at once.
    uri = open_store(home, tracking).uri
    if uri.startswith("http"):
        return uri
    words = ("mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1")
    artifacts = tracking.artifact_root or home.artifacts.as_uri()
    launch = Launch(
        name="MLflow's server",
        words=(*words, "--backend-store-uri", uri, "--default-artifact-root", artifacts),
        port=port,
        health="/health",
        # The job runner is for GenAI evaluation; it would keep its own database of jobs.
        variables={"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        log=home.logs / "mlflow-server.log",
        record=home.root / MLFLOW,
    )
    return launch


def cleared(launch: Launch, verb: str) -> Launch:
    """Clear the way for a launch: end a leftover, refuse a second one or a busy port."""
    server = read(launch.record)
    if server is not None and server.here and server.owner.alive:
        raise OrchestrationError(
            f"{launch.name} of this folder already runs at {server.url} (pid {server.owner.pid}).",
            remedy=f"open {server.url}, or end it: minivess down",
        )
    end_leftover(launch.record)
    if not is_free(launch.port):
        raise OrchestrationError(
            f"Port {launch.port} for {launch.name} is taken{listener(launch.port)}.",
            remedy=f"minivess {verb} --prefect-port {free_port()} --mlflow-port {free_port()}",
        )
    return launch


def _watch(launched: list[tuple[Server, Launch]]) -> None:
    """Wait until a server ends by itself, which is a failure."""
    while True:
        for server, launch in launched:
            if not server.process.alive:
                raise OrchestrationError(
                    f"{launch.name} at {server.url} stopped: {last_line(launch.log)}",
                    remedy=f"read {launch.log}, then start `minivess ui` again",
                )
        time.sleep(0.5)
