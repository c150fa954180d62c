"""Prefect, MLflow and a worker as background processes of this user (`minivess up`).

Commands find the Prefect server by its record in the home, without PREFECT_API_URL.
"""

from __future__ import annotations

import importlib.metadata
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from minivess.config import Environment, TrackingConfig, child_environment, foreign
from minivess.errors import OrchestrationError, UsageError
from minivess.home import Home, is_used
from minivess.orchestration import alerts, pages, prefect_server
from minivess.runtime import idle
from minivess.runtime.processes import end, process_of
from minivess.runtime.servers import (
    Launch,
    Server,
    answers,
    clear,
    detach,
    free_port,
    get,
    last_line,
    living,
    read,
)
from minivess.text import format_duration, several
from minivess.tracking.store.store import open_store

POOL = "local-process"
FLOWS = Path(__file__).resolve().parents[3] / "deployments" / "prefect.yaml"
LARGE_BYTES = 1_000_000_000
SHOWN, SHOWN_LINES, FOLLOW_S = ("pid", "since", "version", "database"), 20, 0.5
Ports = dict[str, int | None]


class Part(NamedTuple):
    """One server of a home, with the address that the settings give in its place, if any."""

    name: str
    title: str
    given: str | None
    record: Path
    log: Path
    health: str
    package: str
    version: str = ""
    database: Path | None = None
    needed: bool = True
    """Whether it is missed where it does not run."""

    @property
    def server(self) -> Server | None:
        """The process that its record names, if it runs on this host."""
        return living(self.record)

    @property
    def address(self) -> str | None:
        """Where it is, if it runs or is given."""
        return self.given or (self.server.url if self.server else None)

    @property
    def well(self) -> bool:
        """Whether it answers; whether it runs, where it listens nowhere."""
        where = self.address
        return where is not None and (not self.health or answers(f"{where}{self.health}"))

    def end(self) -> Server | None:
        """End it and remove its record; returns what has ended."""
        server = self.server
        if server is not None:
            end(server.process.pid)
        self.record.unlink(missing_ok=True)
        return server


@dataclass(frozen=True)
class Background:
    """The servers of a home; `say` prints a line."""

    home: Home
    tracking: TrackingConfig
    env: Environment
    say: Callable[[str], None]

    @cached_property
    def folder(self) -> Path:
        """PREFECT_HOME."""
        return prefect_server.folder_of(self.home, self.env)

    @property
    def parts(self) -> dict[str, Part]:
        """The servers in the order in which they are started."""
        api, uri, logs = self.env.prefect_api_url, self.tracking.uri or "", self.home.logs
        watched = self.folder / "watcher.json"
        prefect = Part(
            "prefect", "Prefect's server", api.removesuffix("/api") if api else None,
            self.folder / prefect_server.UI, logs / "prefect-ui.log", "/api/health", "prefect",
            "/api/admin/version", self.folder / "prefect.db",
        )  # fmt: skip
        parts = (
            prefect._replace(
                name="private", given=None, record=self.folder / prefect_server.PRIVATE,
                log=logs / "prefect-server.log", needed=False,
            ),
            prefect,
            Part("mlflow", "MLflow's server", uri if uri.startswith("http") else None,
                 self.home.root / pages.MLFLOW, logs / "mlflow-server.log", "/health", "mlflow",
                 "/version", self.home.database),
            Part("worker", "The worker", None, self.folder / "worker.json", logs / "worker.log",
                 "/health", "prefect"),
            Part("watcher", "The watcher", None, watched, logs / "watcher.log", "", "prefect",
                 needed=watched.exists()),
        )  # fmt: skip
        return {part.name: part for part in parts}

    def up(self, ports: Ports, watch: str | None = None) -> dict[str, Any]:
        """Start what does not run, register the flows, and print where everything is.

        Args:
            watch: a folder of data, or an experiment file that names it, to look for new data in.

        Raises:
            OrchestrationError: a port is taken, or one did not start; those that answer stay.
        """
        wanted = self._watch(watch) if watch else None
        with prefect_server.turn(self.folder, "start the servers"):
            prefect_server.end_private(self.folder)
            detach(self._pages(ports, "up"))
            if FLOWS.exists():
                launch = self._worker()
                detach([launch] if self._is_missing("worker", launch.port) else [])
                self._register(launch)
            if wanted and self._is_missing("watcher", wanted.port):
                detach([wanted])
        found = self.health()
        self.say("  `minivess health` shows this again, `minivess down` ends them.")
        self.say(f"  To have them after a restart, by `crontab -e`: @reboot {self._again()}")
        return found

    def serve(self, ports: Ports) -> None:
        """Serve the two pages until Ctrl-C.

        Of a store or a Prefect API given by address only the address is printed.

        Raises:
            OrchestrationError: a port is busy, the pages run already, or a server stopped.
        """
        prefect, mlflow = self.parts["prefect"], self.parts["mlflow"]
        with prefect_server.turn(self.folder, "start the pages"):
            prefect_server.end_private(self.folder)
            detach(self._pages(ports, "ui"), owner=process_of())
        try:
            self.say(f"Prefect   {prefect.address}")
            self.say(f"MLflow    {mlflow.address}   (choose `Model training` at the top left)")
            self.say("Ctrl-C ends both.")
            while prefect.address and mlflow.address:
                time.sleep(FOLLOW_S)
            gone = mlflow if prefect.address else prefect
            raise OrchestrationError(
                f"{gone.title} stopped: {last_line(gone.log)}",
                remedy=f"read {gone.log}, then start `minivess ui` again",
            )
        except KeyboardInterrupt:
            self.say("Ended.")
        finally:
            for part in (prefect, mlflow):
                if not part.given:
                    part.end()

    def _pages(self, ports: Ports, verb: str) -> Iterator[Launch]:
        """How to start the pages that do not run; the second is looked for while the first starts.

        Raises:
            OrchestrationError: one given by address does not answer.
        """
        at = ports["prefect"] or prefect_server.PREFECT_PORT, ports["mlflow"] or pages.MLFLOW_PORT
        prefect = self._is_missing("prefect", at[0], verb)
        mlflow = self._is_missing("mlflow", at[1], verb)
        if self.env.prefect_api_url:
            prefect_server.probe(self.env.prefect_api_url)
        if self.parts["mlflow"].given:
            open_store(self.home, self.tracking)
        if prefect:
            prefect_server.tidy(self.home, self.folder)
            yield prefect_server.launch(self.home, self.folder, at[0], prefect_server.UI)
        if mlflow:
            yield pages.mlflow_page(self.home, self.tracking, at[1])

    def _is_missing(self, name: str, port: int, verb: str = "up") -> bool:
        """Whether a server has to be started; one that does not answer any more is ended."""
        part = self.parts[name]
        if part.given or (verb == "up" and part.well):
            return False
        if verb == "up":
            part.end()
        remedy = f"minivess {verb} --prefect-port {free_port()} --mlflow-port {free_port()}"
        clear(part.record, part.title, port, remedy)
        self.say(f"  starting {part.title}")
        return True

    def _worker(self) -> Launch:
        """How to start the worker: it asks the server of this home, and answers a health check."""
        part, server, port = self.parts["worker"], self.parts["prefect"].server, free_port()
        return Launch(
            name="The worker",
            words=("prefect", "worker", "start", "--pool", POOL, "--type", "process",
                   "--with-healthcheck"),
            port=port,
            health=part.health,
            variables={
                **prefect_server.without_profiles(self.home),
                "PREFECT_HOME": str(self.folder),
                "PREFECT_API_URL": self.env.prefect_api_url or (server.api if server else ""),
                "PREFECT_WORKER_WEBSERVER_PORT": str(port),
                "PREFECT_WORKER_QUERY_SECONDS": "5",
                "MINIVESS_HOME": str(self.home.root),
            },
            log=part.log,
            record=part.record,
        )  # fmt: skip

    def _watch(self, what: str) -> Launch:
        """How to start the watcher of a folder, or of the data of an experiment file.

        Raises:
            UsageError: it is neither.
            OrchestrationError: another one is watched.
        """
        part, place = self.parts["watcher"], Path(what).expanduser().resolve()
        if not place.exists():
            raise UsageError(
                f"--watch {what} does not exist.", remedy="--watch FOLDER_OR_FILE.yaml"
            )
        if part.address not in (None, str(place)):
            raise OrchestrationError(
                f"The watcher of this folder looks at {part.address} already.",
                remedy=f"minivess down, then minivess up --watch {shlex.quote(str(place))}",
            )
        uri = [f"tracking.uri={self.tracking.uri}"] if self.tracking.uri else []
        data = f"data.root={place}" if place.is_dir() else str(place)
        return Launch(
            name=part.title,
            words=("minivess.cli.main", "watch", data, *uri),
            port=0,
            health="",
            variables={"MINIVESS_HOME": str(self.home.root)},
            log=part.log,
            record=part.record,
            does=str(place),
        )

    def _register(self, worker: Launch) -> None:
        """Register the flows of this clone with the server that the worker asks."""
        clone = FLOWS.parents[1]
        done = subprocess.run(
            [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file",
             str(FLOWS)],
            cwd=clone, capture_output=True, text=True, check=False,
            env=child_environment(foreign(), **{**worker.variables, "PWD": str(clone)}),
        )  # fmt: skip
        if done.returncode:
            raise OrchestrationError(
                f"The flows could not be registered: {(done.stdout + done.stderr).strip()[-300:]}",
                remedy=f"correct {FLOWS}, then `minivess up` again",
            )
        self.say(f"  flows of {FLOWS} are registered")

    def _again(self) -> str:
        """The command that starts the servers from any folder."""
        program = Path(sys.executable).with_name("minivess")
        watch = self.parts["watcher"].address
        words = [str(program), "up", *(["--watch", watch] if watch else [])]
        return f"MINIVESS_HOME={shlex.quote(str(self.home.root))} {shlex.join(words)}"

    def down(self, *, force: bool = False) -> dict[str, Any]:
        """End the servers of this home, the worker first.

        Raises:
            OrchestrationError: flow runs or a command need them, and `force` is not given.
        """
        worker = self.parts["worker"].server
        busy = psutil.Process(worker.process.pid).children() if worker else []
        if busy and not force:
            raise OrchestrationError(
                f"The worker carries out {several(len(busy), 'flow run')}, which would end.",
                remedy="wait for them (`minivess status`), or `minivess down --force`",
            )
        if is_used(self.folder / idle.USERS) and not force:
            raise OrchestrationError(
                "A command uses Prefect's server.",
                remedy="wait for it (`minivess status`), or `minivess down --force`",
            )
        ended = []
        for part in reversed(self.parts.values()):
            if server := part.end():
                ended.append(part.name)
                self.say(f"  {part.name} at {server.url} has ended")
        if not ended:
            self.say("  no server runs")
        return {"ended": ended}

    def restart(self, *, force: bool = False) -> dict[str, Any]:
        """End the servers and start them again on the same ports."""
        ports: Ports = {}
        for name in ("prefect", "mlflow"):
            server = self.parts[name].server
            ports[name] = int(server.url.rpartition(":")[2]) if server else None
        watch = self.parts["watcher"].address
        self.down(force=force)
        return self.up(ports, watch)

    def logs(self, asked: Sequence[str], *, follow: bool = False) -> None:
        """Print the last lines of each log, or of those asked for; with `follow` until Ctrl-C.

        Raises:
            UsageError: there is no server of that name.
        """
        known = self.parts
        for name in set(asked) - known.keys():
            raise UsageError(f"There is no server {name!r}.", remedy=f"one of {', '.join(known)}")
        seen: dict[str, int] = {}
        while True:
            for name in asked or known:
                log = known[name].log
                lines = log.read_text("utf-8", "replace").splitlines() if log.exists() else []
                for line in lines[seen.get(name, -SHOWN_LINES) :]:
                    self.say(f"{name:<8} {line}")
                seen[name] = len(lines)
            if not follow:
                return
            time.sleep(FOLLOW_S)

    def health(self) -> dict[str, Any]:
        """Print and return the state of each server; the exit code is 1 unless all are well."""
        rows = [_state(part) for part in self.parts.values() if part.needed or part.server]
        for row in rows:
            facts = [row["address"] or "-", *(f"{key} {row[key]}" for key in SHOWN if row[key])]
            self.say(f"  {row['name']:<8} {'well' if row['well'] else 'down'}  {'  '.join(facts)}")
            if row["fix"]:
                self.say(f"           {row['fix']}")
        code = 0 if all(row["well"] for row in rows) else 1
        return {"servers": rows, "refused_events": self._refused_events(), "exit_code": code}

    def _refused_events(self) -> list[dict[str, str]]:
        """Print and return the events of which Prefect made no run, which its log alone says."""
        prefect = self.parts["prefect"]
        if not prefect.well:
            return []
        import httpx

        try:
            found = alerts.refused(f"{prefect.address}/api")
        except httpx.HTTPError as error:
            self.say(f"  events    were not read: {error}")
            return []
        for event in found:
            self.say(f"  event     made no run: {event['automation']}: {event['reason']}")
            self.say(f"           {event['fix']}")
        return found


def _state(part: Part) -> dict[str, Any]:
    """Address, age, version and database of a server, and what helps where something is wrong."""
    server, address = None if part.given else part.server, part.address
    well = part.well
    database = part.database if server and part.database and part.database.exists() else None
    size = database.stat().st_size if database else 0
    version = get(f"{address}{part.version}").strip().strip('"') if well and part.version else None
    return {
        "name": part.name,
        "address": address,
        "well": well,
        "pid": server.process.pid if server else None,
        "since": _age(server.process.pid) if server else None,
        "version": version,
        "database": f"{size / 1e6:.1f} MB" if size else None,
        "bytes": size,
        "log": str(part.log),
        "fix": _fix(part, server, version, size, well=well),
    }


def _age(pid: int) -> str | None:
    with suppress(psutil.NoSuchProcess):
        return format_duration(time.time() - psutil.Process(pid).create_time())
    return None


def _fix(
    part: Part, server: Server | None, version: str | None, size: int, *, well: bool
) -> str | None:
    own = importlib.metadata.version(part.package)
    if not well and part.name == "worker" and not FLOWS.exists():
        return "flows are registered from a clone of the project, and this is an installed package"
    if not well and server is None:
        last = read(part.record) if not part.health else None
        watch = f" --watch {shlex.quote(last.url)}" if last else ""
        return f"start {part.given}" if part.given else f"minivess up{watch}"
    if not well:
        return f"it does not answer ({last_line(part.log)}); minivess restart"
    if version not in (None, own):
        return f"this environment has {part.package} {own}; minivess restart"
    if size > LARGE_BYTES:
        return "its database is large; delete what is not needed on its page, then minivess restart"
    return None
