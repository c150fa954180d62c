"""Serve a registered model at an address, follow its alias, and end in order."""

from __future__ import annotations

import logging
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from minivess import files, names
from minivess.config import child_environment
from minivess.errors import ServingError, StoreError
from minivess.home import Home
from minivess.orchestration.session import Session
from minivess.production.predict import choose
from minivess.runtime.processes import outliving, process_of
from minivess.runtime.servers import HOST, Server, last_line, read
from minivess.serving import model_record, package
from minivess.stages import dataset_identity
from minivess.text import slug
from minivess.tracking.store import registry
from minivess.tracking.store.registry import Registered

if TYPE_CHECKING:
    from minivess.serving.front import Backend, Front

PORT = 3000
FOLLOW_S = 2.0
END_LIMIT_S = 90.0
START_LIMIT_S = 300.0
log = logging.getLogger(__name__)


# --- what is served -----------------------------------------------------------------------


@dataclass(frozen=True)
class Wanted:
    """A model by name, and the alias or the version of it that is to be served."""

    name: str
    alias: str | None
    version: str | None

    def __str__(self) -> str:
        return f"{self.name}@{self.alias}" if self.alias else f"{self.name}/{self.version}"

    def now(self, session: Session) -> Registered:
        """The version that is meant at this moment."""
        if self.alias is None:
            return registry.by_version(session.store, self.name, str(self.version))
        return registry.by_alias(session.store, self.name, self.alias)


def wanted(session: Session, words: Sequence[str]) -> Wanted:
    """The model that `MODEL@alias` or `MODEL/version` names; default, `production`."""
    if not words:
        dataset_identity.require(session)
    version = choose(session, words).version
    _, at, alias = words[0].partition("@") if words else ("", "@", names.PRODUCTION_ALIAS)
    return Wanted(version.name, alias if at else None, None if at else version.version)


def service_of(session: Session, version: Registered) -> model_record.ServedModel:
    """The service of a version that a deployment has built and proved in this home.

    Raises:
        ServingError: there is none.
    """
    name = slug(version.name)
    built = package.built(session.home.served, name, version.version)
    if built is None:
        raise ServingError(
            f"No service of {version.name} version {version.version} is built in this home.",
            remedy=f"minivess promote {version.name}/{version.version}, which builds and proves it",
        )
    return built


# --- serving ------------------------------------------------------------------------------


def serve(session: Session, words: Sequence[str], *, host: str, port: int) -> None:
    """Serve until Ctrl-C; when the alias moves, the next service takes over without a gap.

    Args:
        words: `MODEL@alias`, `MODEL/version`, or none for `production` of the settings' model.
        host: address to listen at; 127.0.0.1 is reached from this machine alone.

    Raises:
        UsageError: other machines reach it, and no token is set.
    """
    from minivess.serving import access
    from minivess.serving import front as fronts

    access.require_token(host)
    asked = wanted(session, words)
    service_of(session, asked.now(session))
    front = fronts.Front()
    try:
        with ExitStack() as stack:
            # The front ends first: requests that are in need their service to the end.
            services = stack.enter_context(Services(session, front).all())
            stack.enter_context(fronts.listening(front, host, port))
            services.change(service_of(session, asked.now(session)))
            stack.enter_context(recorded(session.home, host, port))
            session.print(f"Serve     {asked}: {services.label} at http://{host}:{port}")
            if host != HOST:
                session.print("  a token is asked for; put a proxy with TLS in front of it")
            image = package.image_command(session.home.served, services.label)
            session.print(f"  as an image: {image}")
            session.print("  Ctrl-C ends it")
            follow(session, asked, services)
    except KeyboardInterrupt:
        session.print("Ended.")


@dataclass
class Services:
    """The service that gets the requests, and those that answer their last ones."""

    session: Session
    front: Front
    current: Started | None = None
    retired: list[Started] = field(default_factory=list)

    @contextmanager
    def all(self) -> Iterator[Services]:
        """End all of them on leaving."""
        try:
            yield self
        finally:
            for one in filter(None, (self.current, *self.retired)):
                one.stack.close()

    @property
    def label(self) -> str:
        """The model that is served, as name:version."""
        return self.current.backend.model.label if self.current else "nothing"

    def change(self, model: model_record.ServedModel) -> None:
        """Start the service of a model, and give it the requests as soon as it is ready."""
        before, self.current = self.current, start(self.session, model)
        self.front.backend = self.current.backend
        if before is not None:
            self.retired.append(before)

    def check(self) -> None:
        """Start a service that died again, and end those whose last request is answered."""
        if self.current is not None and not self.current.alive():
            model = self.current.backend.model
            self.session.print(f"  the service {model.label} died and is started again")
            self.change(model)
        for one in [one for one in self.retired if not one.backend.in_flight or not one.alive()]:
            self.retired.remove(one)
            one.stack.close()


@dataclass
class Started:
    """A service that runs; `stack` ends it."""

    backend: Backend
    alive: Callable[[], bool]
    stack: ExitStack


def start(session: Session, model: model_record.ServedModel) -> Started:
    """Start the service of a model and wait until it is ready."""
    from minivess.serving import smoke
    from minivess.serving.front import Backend

    with ExitStack() as stack:
        timeout = session.config.deployment.start_timeout_s
        service = stack.enter_context(
            smoke.serve(model.label, session.home, timeout=timeout, watched=True)
        )
        backend = Backend(service.url, model)
        return Started(backend, lambda: service.process.poll() is None, stack.pop_all())


def follow(session: Session, asked: Wanted, services: Services) -> None:
    """Serve what the alias names at each moment; while it cannot be known, what is served stays."""
    said = ""
    while True:
        time.sleep(FOLLOW_S)
        services.check()
        try:
            model = service_of(session, asked.now(session))
            assert services.current is not None
            if model != services.current.backend.model:
                services.change(model)
                session.print(f"  {asked} moved: {services.label} is served now")
            said = ""
        except (StoreError, ServingError) as error:
            if error.problem != said:
                session.print(f"  {services.label} stays: {error.problem} Then: {error.remedy}")
            said = error.problem


# --- status and stop ----------------------------------------------------------------------


@contextmanager
def recorded(home: Home, host: str, port: int) -> Iterator[None]:
    """Keep a record of this server while it serves, for `serve status` and `serve stop`."""
    url = f"http://{HOST if host == '0.0.0.0' else host}:{port}"
    record = record_of(home, port)
    server = Server(url, socket.gethostname(), process_of(), process_of())
    files.write_json(record, asdict(server))
    try:
        yield
    finally:
        record.unlink(missing_ok=True)


def record_of(home: Home, port: int) -> Path:
    """The record of the server at a port."""
    return home.serving / f"{port}.json"


def detach(session: Session, words: Sequence[str], port: int) -> dict[str, Any]:
    """Start `minivess serve` as a process of its own and wait until it serves.

    Args:
        words: the arguments, options and settings of `serve`.

    Raises:
        ServingError: it ended, or did not serve in time.
    """
    file = session.home.logs / "serve" / f"port-{port}.log"
    command = [sys.executable, "-m", "minivess.cli.main", "serve", *words]
    child = outliving(command, child_environment(), log=file, folder=Path.cwd())
    deadline = time.monotonic() + START_LIMIT_S
    while True:
        server = read(record_of(session.home, port))
        if server is not None and server.process.pid == child.pid:
            session.print(f"  serving at {server.url} (pid {child.pid}, log {file})")
            session.print("  to end it: minivess serve stop")
            return {"url": server.url, "pid": child.pid, "log": str(file)}
        if child.poll() is not None or time.monotonic() > deadline:
            child.terminate()
            text = file.read_text(encoding="utf-8").strip() or last_line(file)
            problem, _, remedy = text.partition("\n  Try: ")
            raise ServingError(problem[-500:], remedy=remedy or f"read its log {file}")
        time.sleep(0.1)


def status(session: Session) -> dict[str, Any]:
    """Print what is served from this home; the exit code is 1 if nothing is."""
    found = []
    for server in servers(session.home):
        label = label_at(server.url)
        session.print(f"  {server.url}  {label or 'does not answer'}  pid {server.process.pid}")
        found.append({"url": server.url, "model": label, "pid": server.process.pid})
    if not found:
        session.print("  nothing is served from this home")
    return {"servers": found, "exit_code": 0 if found else 1}


def stop(session: Session) -> dict[str, Any]:
    """End every server of this home; requests that are in are answered first."""
    ended = []
    for server in servers(session.home):
        process = psutil.Process(server.process.pid)
        process.terminate()
        try:
            process.wait(END_LIMIT_S)
        except psutil.TimeoutExpired:
            process.kill()
        record_of(session.home, int(server.url.rpartition(":")[2])).unlink(missing_ok=True)
        session.print(f"  {server.url} ended")
        ended.append(server.url)
    if not ended:
        session.print("  nothing is served from this home")
    return {"ended": ended}


def servers(home: Home) -> list[Server]:
    """The servers of this home that run; records of dead ones are removed."""
    found = []
    for record in sorted(home.serving.glob("*.json")):
        server = read(record)
        if server is not None and server.here:
            found.append(server)
        elif server is not None and server.host == socket.gethostname():
            record.unlink(missing_ok=True)
    return found


def label_at(url: str) -> str | None:
    """The model that a service says it serves; None if it does not answer."""
    from minivess.serving import client

    try:
        return str(client.model_at(url)["model"])
    except ServingError:
        return None
