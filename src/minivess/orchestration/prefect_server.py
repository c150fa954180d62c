"""Find or start the Prefect server of a home.

Flows of one home share a server: the one at PREFECT_API_URL, else the one of `minivess up` or `ui`,
else a private one. A private server stays for the next command, on the same port each time, and
ends by itself once none has used it for MINIVESS_SERVER_IDLE_S (`runtime.idle`).
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import sqlite3
import time
import urllib.error
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from minivess.config import Environment, foreign
from minivess.errors import OrchestrationError
from minivess.home import Home, holds, is_used, lock, used
from minivess.runtime import idle
from minivess.runtime.processes import end
from minivess.runtime.servers import (
    HOST,
    Launch,
    Server,
    answers,
    detach,
    free_port,
    get,
    is_free,
    listener,
    living,
    ports,
    wait_until_ready,
)

log = logging.getLogger(__name__)

PREFECT_PORT = 4200
PRIVATE, UI = "server.json", "ui-server.json"
KEPT_DAYS = 7
"""For how long Prefect's log lines and events are kept."""
DATED = {"log": "timestamp", "events": "occurred", "event_resources": "occurred"}
"""Tables of Prefect that grow with every run, and their columns of time."""


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
        with prefect_server(home, env) as server:
            yield server.api


@contextmanager
def prefect_server(home: Home, env: Environment, *, port: int | None = None) -> Iterator[Server]:
    """A Prefect server of this home, used until the block ends: the one that runs, else a new one.

    Raises:
        OrchestrationError: it is of another version, or would not start.
    """
    folder = folder_of(home, env)
    with ExitStack() as stack:
        # The lock also keeps two servers from creating one database at the same time.
        with turn(folder, "start Prefect's server"):
            server = _found(home, folder)
            stack.enter_context(used(folder / idle.USERS))
            if server is None:
                begun = time.monotonic()
                (server,) = detach([_launch_private(home, folder, port, env.server_idle_s)])
                log.info("Prefect's server is ready after %.1f s", time.monotonic() - begun)
        yield server


@contextmanager
def turn(folder: Path, what: str) -> Iterator[None]:
    """Hold the lock under which servers of a folder are looked for, started and ended."""
    if other := holds(folder / idle.TURN):
        log.info("Waiting for another command (pid %s): %s", other["pid"], other["what"])
    with lock(folder / idle.TURN, what=what, wait=True):
        yield


def _found(home: Home, folder: Path) -> Server | None:
    """The server of this home, as soon as it answers; an unfit one that is not used is ended."""
    private = living(folder / PRIVATE)
    server = shared(folder) or private
    if server is None:
        return None
    try:
        wait_until_ready(server, launch(home, folder, 0, PRIVATE))
    except OrchestrationError as error:
        log.debug("Another server is started: %s", error)
        end_private(folder, force=True)
        return None
    if server.version in ("", version()):
        return server
    if server == private and end_private(folder):
        return None
    raise OrchestrationError(
        f"Prefect's server at {server.url} is of version {server.version}, and this environment "
        f"has {version()}.",
        remedy="minivess down, as soon as no command uses it",
    )


def end_private(folder: Path, *, force: bool = False) -> Server | None:
    """End the private server of a folder unless a command uses it; returns the one that ended."""
    server = living(folder / PRIVATE)
    if server is None or (is_used(folder / idle.USERS) and not force):
        return None
    end(server.process.pid)
    (folder / PRIVATE).unlink(missing_ok=True)
    return server


def running(folder: Path) -> Server | None:
    """A running Prefect server of this PREFECT_HOME; None without one."""
    return shared(folder) or _answering(folder / PRIVATE)


def shared(folder: Path) -> Server | None:
    """The server of `minivess up` or `minivess ui`, which workers can ask; None without one."""
    return _answering(folder / UI)


def _answering(record: Path) -> Server | None:
    server = living(record)
    return server if server and answers(f"{server.api}/health") else None


def folder_of(home: Home, env: Environment) -> Path:
    """PREFECT_HOME: the user's own, else inside the home folder."""
    return env.prefect_home.expanduser().resolve() if env.prefect_home else home.prefect


def stored_variable(home: Home, env: Environment, name: str) -> Any:
    """Read a Prefect Variable from the private server's database; None without one.

    Comparing a pointer thus starts no server.
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


def tidy(home: Home, folder: Path) -> None:
    """Remove old log lines and events from the database of a home, which no server uses now."""
    database = folder / "prefect.db"
    if folder != home.prefect or not database.exists():
        return
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        try:
            for table, time_of in DATED.items():
                old = f"{time_of} < datetime('now', '-{KEPT_DAYS} days')"
                connection.execute(f"DELETE FROM {table} WHERE {old}")
            if connection.total_changes:
                connection.execute("VACUUM")
        except sqlite3.DatabaseError as error:
            log.warning("Old log lines stay in %s: %s", database, error)


def without_profiles(home: Home) -> dict[str, str]:
    """Variables that hide the user's Prefect profile, which is meant for another server."""
    return {"PREFECT_PROFILES_PATH": str(home.root / "no-profiles.toml")}


def require(home: Home, env: Environment, what: str) -> None:
    """Check that a server runs that workers ask and that events reach: a private one has neither.

    Raises:
        OrchestrationError: neither `minivess up` nor a server at PREFECT_API_URL.
    """
    if env.prefect_disabled or not (env.prefect_api_url or shared(folder_of(home, env))):
        raise OrchestrationError(
            f"{what} needs the Prefect server that a worker asks, and none runs.",
            remedy="minivess up, or export PREFECT_API_URL=http://HOST:4200/api, as the worker "
            "has it",
        )


def probe(api: str) -> None:
    """Ask a given Prefect API for its health.

    Raises:
        OrchestrationError: it does not answer within five seconds, or is no Prefect API.
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


def _launch_private(home: Home, folder: Path, port: int | None, idle_s: int) -> Launch:
    """How to start a server that ends by itself, on the same port of this folder each time."""
    mine = port or next(ports(str(folder)))
    if not is_free(mine):
        log.info("Port %s is taken%s: this time another one is used", mine, listener(mine))
        mine = free_port(str(folder))
    if unused := ", ".join(foreign()):
        log.info("A private server does not use %s; PREFECT_API_URL names one of yours", unused)
    known = (folder / "prefect.db").exists()
    waits = "about 5 s" if known else "its database is made first, about 20 s"
    log.info("Starting Prefect's server (%s)", waits)
    tidy(home, folder)
    plain = launch(home, folder, mine, PRIVATE)
    return replace(plain, words=("minivess.runtime.idle", str(folder), str(idle_s), *plain.words))


def version() -> str:
    """The version of Prefect in this environment."""
    return importlib.metadata.version("prefect")


def launch(home: Home, folder: Path, port: int, record: str) -> Launch:
    """How to start a Prefect server; `record` is PRIVATE or UI."""
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
            "PREFECT_SERVER_EVENTS_RETENTION_PERIOD": f"P{KEPT_DAYS}D",
        },
        log=home.logs / log_name,
        record=folder / record,
        version=version(),
    )
