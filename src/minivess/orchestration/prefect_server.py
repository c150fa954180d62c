"""Which Prefect server the flows use, and the two pages that `minivess ui` shows.

Flows of one home share a server: the one at PREFECT_API_URL, else the one of `minivess ui`, else
a private one. A private server outlives a parent that was killed; the next command of the same
home ends it. The server of `minivess ui` is used, never ended.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import sys
import time
import urllib.error
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import psutil

from minivess.config import Environment, TrackingConfig, environment, foreign
from minivess.errors import OrchestrationError
from minivess.home import Home, lock
from minivess.runtime.processes import (
    HOST,
    Launch,
    Server,
    answers,
    end_leftover,
    free_port,
    get,
    is_free,
    last_line,
    read,
    started,
)

log = logging.getLogger(__name__)

PREFECT_PORT, MLFLOW_PORT = 4200, 5000
PRIVATE, UI, MLFLOW = "server.json", "ui-server.json", "mlflow-server.json"


# --- Prefect for flows --------------------------------------------------------------------


@contextmanager
def connect(home: Home, env: Environment) -> Iterator[str]:
    """The API address of the Prefect server to use, alive while the context is open.

    Raises:
        OrchestrationError: PREFECT_API_URL does not answer, or no server would start.
    """
    if env.prefect_api_url:
        probe(env.prefect_api_url)
        yield env.prefect_api_url
    else:
        with prefect_server(home, folder=folder_of(home, env)) as server:
            yield server.api


@contextmanager
def prefect_server(
    home: Home, *, port: int | None = None, folder: Path | None = None
) -> Iterator[Server]:
    """A Prefect server of this home: the one that runs, else a private one ended on leaving."""
    folder = folder or home.prefect
    with ExitStack() as stack:
        # The lock also keeps two servers from creating one database at the same time.
        with lock(folder / "server.lock", what="start Prefect's server", wait=True):
            server = running(folder)
            if server is None:
                end_leftover(folder / PRIVATE)
                launch = _prefect(home, folder, port or free_port(), PRIVATE)
                log.info("Starting Prefect's server (the first time takes about 10 to 20 s)")
                if unused := foreign():
                    log.info(
                        "A private server does not use %s; PREFECT_API_URL names one of yours",
                        ", ".join(unused),
                    )
                server = stack.enter_context(started(launch))
        yield server


def running(folder: Path) -> Server | None:
    """A Prefect server that answers for this PREFECT_HOME and that will not be ended soon.

    A private server whose starter is gone is a leftover, so it is not counted; the server of
    `minivess ui` always is.
    """
    for name in (UI, PRIVATE):
        server = read(folder / name)
        if (
            server is not None
            and server.here
            and (name == UI or server.owner.alive)
            and answers(f"{server.api}/health")
        ):
            return server
    return None


def folder_of(home: Home, env: Environment) -> Path:
    """PREFECT_HOME: the user's own, else inside the home folder."""
    return env.prefect_home.expanduser().resolve() if env.prefect_home else home.prefect


def stored_variable(home: Home, env: Environment, name: str) -> Any:
    """A Prefect Variable as the private server's database holds it, or None.

    So looking whether a pointer is right starts no server.
    """
    database = folder_of(home, env) / "prefect.db"
    if not database.exists():
        return None
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
        try:
            row = connection.execute(
                "SELECT value FROM variable WHERE name = ?", (name,)
            ).fetchone()
        except sqlite3.OperationalError:  # no server has made its tables yet
            return None
    return json.loads(row[0]) if row else None


def without_profiles(home: Home) -> dict[str, str]:
    """A user's profile is meant for the user's server, so a private one sees none."""
    return {"PREFECT_PROFILES_PATH": str(home.root / "no-profiles.toml")}


def require(home: Home, env: Environment) -> None:
    """Refuse where no server stays to hear of an event: a private one ends with its command.

    Raises:
        OrchestrationError: neither `minivess ui` nor a server at PREFECT_API_URL.
    """
    here = env.prefect_api_url or running(folder_of(home, env))
    if env.prefect_disabled or not here:
        raise OrchestrationError(
            "No Prefect server runs that could hear about it.",
            remedy="start `minivess ui`, or set PREFECT_API_URL=http://host:4200/api",
        )


def probe(api: str) -> None:
    """Ask a given Prefect API for its health.

    Raises:
        OrchestrationError: nobody answers within five seconds, or somebody else does.
    """
    remedy = (
        "start that server (`minivess ui` starts one at "
        f"PREFECT_API_URL=http://{HOST}:{PREFECT_PORT}/api), or unset PREFECT_API_URL to use a "
        "private one"
    )
    address = f"{api.rstrip('/')}/health"
    try:
        answer = get(address)
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            return  # It is there; Prefect's own client brings the key.
        answer = f"status {error.code}"
    except (OSError, ValueError) as error:
        raise OrchestrationError(
            f"Prefect's API at PREFECT_API_URL={api} does not answer: {error}.", remedy=remedy
        ) from error
    if answer.strip() != "true":
        raise OrchestrationError(
            f"PREFECT_API_URL={api} is no Prefect API: {address} answered {answer[:60]!r}.",
            remedy="give the address that ends in /api, or unset PREFECT_API_URL",
        )


def _prefect(home: Home, folder: Path, port: int, record: str) -> Launch:
    url = f"http://{HOST}:{port}"
    log_name = "prefect-ui.log" if record == UI else "prefect-server.log"
    return Launch(
        name="Prefect's server",
        words=("prefect", "server", "start", "--host", HOST, "--port", str(port)),
        port=port,
        health="/api/health",
        variables={
            **without_profiles(home),
            "PREFECT_HOME": str(folder),
            "PREFECT_API_URL": f"{url}/api",
            # Without it the page looks for its data on port 4200 and stays blank.
            "PREFECT_SERVER_UI_API_URL": f"{url}/api",
            "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
            "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
            # A busy machine holds SQLite's lock for longer than the 10 s after which Prefect
            # answers 503.
            "PREFECT_SERVER_DATABASE_TIMEOUT": "60",
            "PREFECT_SERVER_DATABASE_CONNECTION_TIMEOUT": "60",
            "PREFECT_SERVER_EVENTS_RETENTION_PERIOD": "P7D",
        },
        log=home.logs / log_name,
        record=folder / record,
    )


# --- both pages in the foreground ---------------------------------------------------------


def ui(
    home: Home,
    tracking: TrackingConfig,
    *,
    env: Environment | None = None,
    prefect_port: int = PREFECT_PORT,
    mlflow_port: int = MLFLOW_PORT,
    say: Callable[[str], object] | None = None,
) -> None:
    """Serve Prefect's and MLflow's pages until Ctrl-C.

    A store or a Prefect API given by address already has its page, so only its address is said.

    Raises:
        OrchestrationError: a port is busy, the pages run already, or a server stopped.
    """
    say = say or _say
    env = env or environment()
    try:
        with pages(home, tracking, env, (prefect_port, mlflow_port)) as (prefect, mlflow, launched):
            say(f"Prefect   {prefect}")
            say(f"MLflow    {mlflow}   (choose `Model training` at the top left)")
            say("Ctrl-C ends both.")
            _watch(launched)
    except KeyboardInterrupt:
        say("Ended.")


@contextmanager
def pages(
    home: Home, tracking: TrackingConfig, env: Environment, ports: tuple[int, int]
) -> Iterator[tuple[str, str, list[tuple[Server, Launch]]]]:
    """Start what is not served elsewhere: Prefect's address, MLflow's address, our servers."""
    folder = folder_of(home, env)
    with ExitStack() as stack:
        with lock(folder / "server.lock", what="start Prefect's server", wait=True):
            wanted = _wanted(home, tracking, env, ports)
            log.info("Starting the pages (the first time takes about 10 to 20 s)")
            servers = [
                (stack.enter_context(started(launch)), launch)
                for launch in wanted
                if isinstance(launch, Launch)
            ]
        prefect, mlflow = (page if isinstance(page, str) else page.url for page in wanted)
        yield prefect, mlflow, servers


def _wanted(
    home: Home, tracking: TrackingConfig, env: Environment, ports: tuple[int, int]
) -> tuple[Launch | str, Launch | str]:
    """Prefect's page and MLflow's: how to start each, or the address where it is already."""
    from minivess.tracking.store.store import open_store

    prefect: Launch | str
    if env.prefect_api_url:
        probe(env.prefect_api_url)
        prefect = env.prefect_api_url.rstrip("/").removesuffix("/api")
    else:
        prefect = _cleared(_prefect(home, folder_of(home, env), ports[0], UI))
    # Opening the store creates its database, which two processes must not do at once.
    uri = open_store(home, tracking).uri
    if uri.startswith("http"):
        return prefect, uri
    return prefect, _cleared(_mlflow(home, tracking, uri, ports[1]))


def _mlflow(home: Home, tracking: TrackingConfig, uri: str, port: int) -> Launch:
    words = ("mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1")
    artifacts = tracking.artifact_root or home.artifacts.as_uri()
    return Launch(
        name="MLflow's server",
        words=(*words, "--backend-store-uri", uri, "--default-artifact-root", artifacts),
        port=port,
        health="/health",
        # The job runner is for GenAI evaluation; it would keep its own database of jobs.
        variables={"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        log=home.logs / "mlflow-server.log",
        record=home.root / MLFLOW,
    )


def _cleared(launch: Launch) -> Launch:
    """What may start: end what a killed `minivess ui` left, refuse a second one and a busy port."""
    server = read(launch.record)
    if server is not None and server.here and server.owner.alive:
        raise OrchestrationError(
            f"{launch.name} of this folder already runs at {server.url} "
            f"(`minivess ui`, pid {server.owner.pid}).",
            remedy=f"open {server.url}, or stop it with `kill {server.owner.pid}`",
        )
    end_leftover(launch.record)
    if not is_free(launch.port):
        raise OrchestrationError(
            f"Port {launch.port} for {launch.name} is taken{_taker(launch.port)}.",
            remedy=f"minivess ui --prefect-port {free_port()} --mlflow-port {free_port()}",
        )
    return launch


def _taker(port: int) -> str:
    try:
        connections = psutil.net_connections(kind="tcp")
    except (psutil.AccessDenied, PermissionError):
        return ""
    for connection in connections:
        address = connection.laddr
        listens = connection.status == psutil.CONN_LISTEN and address and address.port == port
        if listens and connection.pid:
            return f" by {psutil.Process(connection.pid).name()} (pid {connection.pid})"
    return ""


def _watch(launched: list[tuple[Server, Launch]]) -> None:
    """Wait; a server that ends by itself is a failure."""
    while True:
        for server, launch in launched:
            if not server.process.alive:
                raise OrchestrationError(
                    f"{launch.name} at {server.url} stopped: {last_line(launch.log)}",
                    remedy=f"read {launch.log}, then start `minivess ui` again",
                )
        time.sleep(0.5)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
