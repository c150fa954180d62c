"""Find or start the Prefect server of a home.

Flows of one home share a server: the one at PREFECT_API_URL, else the one of `minivess ui`, else
a private one. A private server outlives a parent that was killed; the next command of the same
home ends it. The server of `minivess ui` is used, never ended.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import urllib.error
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from minivess.config import Environment, foreign
from minivess.errors import OrchestrationError
from minivess.home import Home, lock
from minivess.runtime.servers import (
    HOST,
    Launch,
    Server,
    answers,
    end_leftover,
    free_port,
    get,
    read,
    started,
)

log = logging.getLogger(__name__)

PREFECT_PORT = 4200
PRIVATE, UI = "server.json", "ui-server.json"


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
                private = launch(home, folder, port or free_port(), PRIVATE)
                log.info("Starting Prefect's server (the first time takes about 10 to 20 s)")
                if unused := foreign():
                    log.info(
                        "A private server does not use %s; PREFECT_API_URL names one of yours",
                        ", ".join(unused),
                    )
                server = stack.enter_context(started(private))
        yield server


def running(folder: Path) -> Server | None:
    """A running Prefect server of this PREFECT_HOME; None without one.

    A private server whose starter is gone is a leftover and does not count; the server of
    `minivess ui` always counts.
    """
    private = read(folder / PRIVATE)
    alive = private is not None and private.here and private.owner.alive
    mine = private if private and alive and answers(f"{private.api}/health") else None
    return shared(folder) or mine


def shared(folder: Path) -> Server | None:
    """The server of `minivess up` or `minivess ui`, which workers can ask; None without one."""
    server = read(folder / UI)
    there = server is not None and server.here and answers(f"{server.api}/health")
    return server if there else None


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


def without_profiles(home: Home) -> dict[str, str]:
    """Variables that hide the user's Prefect profile, which is meant for another server."""
    return {"PREFECT_PROFILES_PATH": str(home.root / "no-profiles.toml")}


def require(home: Home, env: Environment) -> None:
    """Check that a server runs that receives events: a private one ends with its command.

    Raises:
        OrchestrationError: neither `minivess ui` nor a server at PREFECT_API_URL.
    """
    here = env.prefect_api_url or running(folder_of(home, env))
    if env.prefect_disabled or not here:
        raise OrchestrationError(
            "No Prefect server runs that could receive the event.",
            remedy="start `minivess ui`, or set PREFECT_API_URL=http://host:4200/api",
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
            "PREFECT_SERVER_EVENTS_RETENTION_PERIOD": "P7D",
        },
        log=home.logs / log_name,
        record=folder / record,
    )
