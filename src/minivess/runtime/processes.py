"""One server process: started, recorded, found again, and ended with all its children.

A record beside the data says which process serves, since when, and who started it, so that a
server outliving a killed parent is known for what it is. Everything listens on 127.0.0.1 only.
"""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from minivess import files
from minivess.config import child_environment, foreign, local_without_proxy
from minivess.errors import OrchestrationError
from minivess.runtime.signals import terminable

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
START_LIMIT_S = 180.0
PROBE_LIMIT_S = 5.0
END_LIMIT_S = 15.0
CLOCK_TOLERANCE_S = 2.0
# `exec` keeps number and start time, so that the record holds for the server itself.
WHEN_RELEASED = 'read -r go && exec "$@" < /dev/null'


@dataclass(frozen=True)
class Process:
    """A process that can be told from a later one with the same number."""

    pid: int
    started: float

    @property
    def alive(self) -> bool:
        """Whether it still runs on this host."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < CLOCK_TOLERANCE_S
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


@dataclass(frozen=True)
class Server:
    """A server of this home: where it answers, which process it is, and who started it."""

    url: str
    host: str
    process: Process
    owner: Process

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
    """How one server is started."""

    name: str
    words: tuple[str, ...]
    port: int
    health: str
    variables: Mapping[str, str]
    log: Path
    record: Path

    @property
    def url(self) -> str:
        """Where its page will be."""
        return f"http://{HOST}:{self.port}"


@contextmanager
def started(launch: Launch) -> Iterator[Server]:
    """Start a server, wait until it answers, and end its process group on leaving.

    Raises:
        OrchestrationError: it stopped, or did not answer within START_LIMIT_S.
    """
    begun = time.monotonic()
    with terminable():
        child = spawn(launch)
        try:
            server = Server(launch.url, socket.gethostname(), process_of(child.pid), process_of())
            files.write_json(launch.record, asdict(server))
            _release(child)
            _wait_until_ready(child, launch)
            log.info("%s is ready after %.1f s", launch.name, time.monotonic() - begun)
            yield server
        finally:
            _end_group(child.pid)
            child.wait()
            launch.record.unlink(missing_ok=True)


def read(record: Path) -> Server | None:
    """The server that a record names, whether alive or not."""
    try:
        found = files.read_json(record)
        return Server(
            found["url"], found["host"], Process(**found["process"]), Process(**found["owner"])
        )
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, KeyError, TypeError):
        log.warning("%s cannot be read as the record of a server; it is put aside", record)
        record.rename(record.with_suffix(".unreadable"))
        return None


def end_leftover(record: Path) -> None:
    """End a server whose starter was killed, and forget its record."""
    server = read(record)
    if server is None or server.host != socket.gethostname():
        return
    if server.process.alive:
        log.info("Ending a server that a killed command left at %s", server.url)
        _end_group(server.process.pid)
    record.unlink(missing_ok=True)


def free_port() -> int:
    """A free port below the range that outgoing connections are given."""
    # Not the shared generator: training seeds it, and two commands would choose alike.
    for port in random.SystemRandom().sample(range(20_000, 32_000), k=200):
        if is_free(port):
            return port
    raise OrchestrationError(
        "No free port was found between 20000 and 32000.",
        remedy="end servers that you left running",
    )


def is_free(port: int) -> bool:
    """Whether nobody listens on a port of this machine."""
    with socket.socket() as probe_socket:
        probe_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe_socket.bind((HOST, port))
        except OSError:
            return False
        return True


def spawn(launch: Launch) -> subprocess.Popen[bytes]:
    """A child that waits for `_release`, or ends if we die before its record is written."""
    launch.log.parent.mkdir(parents=True, exist_ok=True)
    variables = {**local_without_proxy(), **launch.variables}
    with launch.log.open("wb") as stream:
        # A session of its own: Ctrl-C in the terminal reaches us, and we end it in order.
        return subprocess.Popen(
            ["/bin/sh", "-c", WHEN_RELEASED, "sh", sys.executable, "-m", *launch.words],
            cwd=launch.record.parent,
            env=child_environment(foreign(), **variables),
            stdin=subprocess.PIPE,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _release(child: subprocess.Popen[bytes]) -> None:
    assert child.stdin is not None
    with child.stdin as go:
        go.write(b"go\n")


def _wait_until_ready(child: subprocess.Popen[bytes], launch: Launch) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while not answers(f"{launch.url}{launch.health}"):
        if child.poll() is not None:
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
    """Whether somebody answers there without an error."""
    try:
        get(address)
    except OSError:
        return False
    return True


def get(address: str) -> str:
    """The first characters of what an address answers; a proxy is not asked about this machine."""
    opener = urllib.request.build_opener()
    if address.startswith(f"http://{HOST}:"):
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(address, timeout=PROBE_LIMIT_S) as answer:
        return str(answer.read(200).decode("utf-8", "replace"))


def process_of(pid: int | None = None) -> Process:
    """A running process; without a number this one."""
    process = psutil.Process(pid)
    return Process(process.pid, process.create_time())


def _end_group(pid: int) -> None:
    """SIGTERM to the server's group, then SIGKILL to what is left of it."""
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
        os.killpg(pid, signal.SIGTERM)
    except (psutil.NoSuchProcess, ProcessLookupError):
        return
    _, left = psutil.wait_procs(family, timeout=END_LIMIT_S)
    for stubborn in left:
        stubborn.kill()


def last_line(file: Path) -> str:
    """The end of a log, for messages."""
    lines = file.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else "it said nothing"
