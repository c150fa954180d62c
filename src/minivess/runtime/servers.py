"""Server processes of a home: started, recorded, found again, and ended.

A record beside the data says which process serves, since when, and who started it, so that a
server that outlives a killed parent is recognised. Everything listens on 127.0.0.1 only.
"""

from __future__ import annotations

import logging
import random
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from pydantic import TypeAdapter, ValidationError

from minivess import files
from minivess.config import child_environment, foreign, local_without_proxy
from minivess.errors import OrchestrationError
from minivess.runtime.processes import Child, Process, end, outliving, process_of

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
START_LIMIT_S = 180.0
PROBE_LIMIT_S = 5.0
END_LIMIT_S = 15.0
# `exec` keeps number and start time, so that the record holds for the server itself.
WHEN_RELEASED = 'read -r go && exec "$@" < /dev/null'


@dataclass(frozen=True)
class Server:
    """A running server of this home: its address, its process, and the process that started it."""

    url: str
    host: str
    process: Process
    owner: Process
    folder: str = ""
    """Where its record lies; a copy of the record elsewhere is not that folder's server."""
    version: str = ""

    @property
    def api(self) -> str:
        """The address for PREFECT_API_URL."""
        return f"{self.url}/api"

    @property
    def here(self) -> bool:
        """Whether its process runs on this host; numbers of other hosts mean nothing."""
        return self.host == socket.gethostname() and self.process.alive


@dataclass(frozen=True)
class Launch:
    """How to start one server."""

    name: str
    words: tuple[str, ...]
    port: int
    health: str
    variables: Mapping[str, str]
    log: Path
    record: Path
    version: str = ""
    does: str = ""
    """What a process that listens nowhere does, in place of an address."""

    @property
    def url(self) -> str:
        """The address of its page."""
        return self.does or f"http://{HOST}:{self.port}"


def detach(launches: Iterable[Launch], owner: Process | None = None) -> list[Server]:
    """Start servers that outlive this process and its terminal, and wait until all answer.

    Args:
        launches: each is started as soon as it is known, before the next is asked for.
        owner: the process whose end makes them leftovers; none by default.

    Raises:
        OrchestrationError: one stopped, or did not answer within START_LIMIT_S; all are ended.
    """
    begun: list[tuple[Launch, Server]] = []
    try:
        for launch in launches:
            begun.append((launch, _begin(launch, owner)))
        for launch, server in begun:
            wait_until_ready(server, launch)
    except BaseException:
        for launch, server in begun:
            end(server.process.pid, END_LIMIT_S)
            launch.record.unlink(missing_ok=True)
        raise
    return [server for _, server in begun]


def _begin(launch: Launch, owner: Process | None) -> Server:
    child = spawned(launch)
    itself, folder = process_of(child.pid), str(launch.record.parent)
    server = Server(
        launch.url, socket.gethostname(), itself, owner or itself, folder, launch.version
    )
    files.write_json(launch.record, asdict(server))
    assert child.stdin is not None
    with child.stdin as go:
        go.write(b"go\n")
    return server


def spawned(launch: Launch) -> Child:
    """A child that waits for `go`, or ends if this process dies before its record is written."""
    return outliving(
        ["/bin/sh", "-c", WHEN_RELEASED, "sh", sys.executable, "-m", *launch.words],
        child_environment(foreign(), **{**local_without_proxy(), **launch.variables}),
        log=launch.log,
        folder=launch.record.parent,
        stdin=subprocess.PIPE,
    )


def read(record: Path) -> Server | None:
    """The server that a record names, whether alive or not; None without a readable record."""
    try:
        server = TypeAdapter(Server).validate_json(record.read_bytes(), strict=True)
        return server if server.folder in ("", str(record.parent)) else None
    except FileNotFoundError:
        return None
    except ValidationError:
        log.warning("%s cannot be read as the record of a server; it is put aside", record)
        record.rename(record.with_suffix(".unreadable"))
        return None


def living(record: Path) -> Server | None:
    """The server that a record names, if it runs on this host."""
    server = read(record)
    return server if server is not None and server.here else None


def clear(record: Path, name: str, port: int, remedy: str) -> None:
    """Clear the way for a server: end one whose starter was killed.

    Raises:
        OrchestrationError: it runs already, or its port is taken.
    """
    server = living(record)
    if server is not None and server.owner.alive:
        raise OrchestrationError(
            f"{name} of this folder already runs at {server.url} (pid {server.owner.pid}).",
            remedy=f"open {server.url}, or end it: minivess down",
        )
    if server is not None:
        log.info("Ending a server that a killed command left at %s", server.url)
        end(server.process.pid, END_LIMIT_S)
    if not is_free(port):
        raise OrchestrationError(f"Port {port} for {name} is taken{listener(port)}.", remedy=remedy)


def ports(of: str | None = None) -> Iterator[int]:
    """Ports below the range that outgoing connections are given, in the same order for one text."""
    # Not the shared generator: training seeds it, and two commands would choose alike.
    yield from random.Random(of).sample(range(20_000, 32_000), k=200)


def free_port(of: str | None = None) -> int:
    """The first free one of `ports`."""
    for port in ports(of):
        if is_free(port):
            return port
    raise OrchestrationError(
        "No free port was found between 20000 and 32000.",
        remedy="end servers that you left running",
    )


def listener(port: int) -> str:
    """` by NAME (pid PID)` of the process that listens on a port; empty where it is not known."""
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


def is_free(port: int) -> bool:
    """Whether a port of this machine has no listener."""
    with socket.socket() as probe_socket:
        probe_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe_socket.bind((HOST, port))
        except OSError:
            return False
        return True


def wait_until_ready(server: Server, launch: Launch) -> None:
    """Wait until a server answers that this process or another one started.

    Raises:
        OrchestrationError: it stopped, or did not answer within START_LIMIT_S.
    """
    deadline = time.monotonic() + START_LIMIT_S
    while not launch.does and not answers(f"{server.url}{launch.health}"):
        if not server.process.alive:
            problem = f"stopped while starting: {last_line(launch.log)}"
        elif time.monotonic() > deadline:
            problem = f"did not answer within {START_LIMIT_S:g} s."
        else:
            time.sleep(0.1)
            continue
        raise OrchestrationError(
            f"{launch.name} {problem}",
            remedy=f"read {launch.log}; restore the pinned versions with `pip install -c "
            "constraints.txt -e .`; or run the same flows without Prefect: PREFECT_DISABLED=1",
        )


def answers(address: str) -> bool:
    """Whether an address answers without an error."""
    try:
        get(address)
    except OSError:
        return False
    return True


def get(address: str) -> str:
    """The first characters of an answer; addresses of this machine bypass proxies."""
    opener = urllib.request.build_opener()
    if address.startswith(f"http://{HOST}:"):
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(address, timeout=PROBE_LIMIT_S) as answer:
        return str(answer.read(200).decode("utf-8", "replace"))


def last_line(file: Path) -> str:
    """The last line of a log, for messages."""
    lines = file.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else "it printed nothing"
