"""Prefect, MLflow and a worker as background processes of this user (`minivess up`).

Commands find the Prefect server by its record in the home, without PREFECT_API_URL.
"""

from __future__ import annotations

import importlib.metadata
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from minivess.config import Environment, TrackingConfig, child_environment, foreign
from minivess.errors import OrchestrationError, UsageError
from minivess.home import Home, lock
from minivess.orchestration import pages, prefect_server
from minivess.runtime.processes import end
from minivess.runtime.servers import (
    Launch,
    Server,
    answers,
    detach,
    free_port,
    get,
    last_line,
    read,
)
from minivess.text import format_duration, several

POOL = "local-process"
FLOWS = Path(__file__).resolve().parents[3] / "deployments" / "prefect.yaml"
LARGE_BYTES = 1_000_000_000
SHOWN, SHOWN_LINES, FOLLOW_S = ("pid", "since", "version", "database"), 20, 0.5
Ports = dict[str, int | None]


class Part(NamedTuple):
    """One server of a home, with the address that the settings give in its place, if any."""

    name: str
    given: str | None
    record: Path
    log: Path
    health: str
    package: str
    version: str = ""
    database: Path | None = None

    @property
    def server(self) -> Server | None:
        """The process that its record names, if it runs on this host."""
        found = read(self.record)
        return found if found is not None and found.here else None


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

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """The servers in the order in which they are started."""
        api, uri, logs = self.env.prefect_api_url, self.tracking.uri or "", self.home.logs
        return (
            Part("prefect", api.removesuffix("/api") if api else None,
                 self.folder / prefect_server.UI, logs / "prefect-ui.log", "/api/health",
                 "prefect", "/api/admin/version", self.folder / "prefect.db"),
            Part("mlflow", uri if uri.startswith("http") else None, self.home.root / pages.MLFLOW,
                 logs / "mlflow-server.log", "/health", "mlflow", "/version", self.home.database),
            Part("worker", None, self.folder / "worker.json", logs / "worker.log", "/health",
                 "prefect"),
        )  # fmt: skip

    def up(self, ports: Ports) -> dict[str, Any]:
        """Start what does not run, register the flows, and print where everything is.

        Raises:
            OrchestrationError: a port is taken, or one did not start; those started before stay.
        """
        prefect, mlflow, worker = self.parts
        with lock(self.folder / "server.lock", what="start the servers", wait=True):
            port = ports["prefect"] or prefect_server.PREFECT_PORT
            self._start(prefect, lambda: pages.prefect_page(self.home, self.env, port))
            at = ports["mlflow"] or pages.MLFLOW_PORT
            self._start(mlflow, lambda: pages.mlflow_page(self.home, self.tracking, at))
            if FLOWS.exists():
                launch = self._worker()
                self._start(worker, lambda: launch)
                self._register(launch)
        found = self.health()
        self.say("  `minivess health` shows this again, `minivess down` ends them.")
        self.say(f"  To have them after a restart, by `crontab -e`: @reboot {self._again()}")
        return found

    def _start(self, part: Part, how: Callable[[], Launch | str]) -> None:
        """Start a server unless it answers already; one that does not answer any more is ended."""
        there = part.server
        if there is not None and not answers(f"{there.url}{part.health}"):
            end(there.process.pid)
        elif there is not None:
            return
        launch = how()
        if isinstance(launch, Launch):
            self.say(f"  starting {launch.name}")
            detach(pages.cleared(launch, "up"))

    def _worker(self) -> Launch:
        """How to start the worker: it asks the server of this home, and answers a health check."""
        prefect, _, part = self.parts
        server, port = prefect.server, free_port()
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
        return f"MINIVESS_HOME={shlex.quote(str(self.home.root))} {shlex.quote(str(program))} up"

    def down(self, *, force: bool = False) -> dict[str, Any]:
        """End the servers of this home, the worker first.

        Raises:
            OrchestrationError: the worker carries out flow runs, and `force` is not given.
        """
        worker = self.parts[-1].server
        busy = psutil.Process(worker.process.pid).children() if worker else []
        if busy and not force:
            raise OrchestrationError(
                f"The worker carries out {several(len(busy), 'flow run')}, which would end.",
                remedy="wait for them (`minivess status`), or `minivess down --force`",
            )
        ended = []
        for part in reversed(self.parts):
            server = part.server
            if server is not None:
                end(server.process.pid)
                ended.append(part.name)
                self.say(f"  {part.name} at {server.url} has ended")
            part.record.unlink(missing_ok=True)
        if not ended:
            self.say("  no server runs")
        return {"ended": ended}

    def restart(self, *, force: bool = False) -> dict[str, Any]:
        """End the servers and start them again on the same ports."""
        ports: Ports = dict.fromkeys(part.name for part in self.parts)
        for part in self.parts:
            if part.server is not None:
                ports[part.name] = int(part.server.url.rpartition(":")[2])
        self.down(force=force)
        return self.up(ports)

    def logs(self, asked: Sequence[str], *, follow: bool = False) -> None:
        """Print the last lines of each log, or of those asked for; with `follow` until Ctrl-C.

        Raises:
            UsageError: there is no server of that name.
        """
        known = {part.name: part for part in self.parts}
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
        rows = [_state(part) for part in self.parts]
        for row in rows:
            facts = [row["address"] or "-", *(f"{key} {row[key]}" for key in SHOWN if row[key])]
            self.say(f"  {row['name']:<8} {'well' if row['well'] else 'down'}  {'  '.join(facts)}")
            if row["fix"]:
                self.say(f"           {row['fix']}")
        return {"servers": rows, "exit_code": 0 if all(row["well"] for row in rows) else 1}


def _state(part: Part) -> dict[str, Any]:
    """Address, age, version and database of a server, and what helps where something is wrong."""
    server = None if part.given else part.server
    address = part.given or (server and server.url)
    well = address is not None and answers(f"{address}{part.health}")
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
        return f"start {part.given}" if part.given else "minivess up"
    if not well:
        return f"it does not answer ({last_line(part.log)}); minivess restart"
    if version not in (None, own):
        return f"this environment has {part.package} {own}; minivess restart"
    if size > LARGE_BYTES:
        return "its database is large; delete what is not needed on its page"
    return None
