"""Servers are started once, found again, and never left behind."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pytest

from minivess import files
from minivess.config import (
    Environment,
    ExperimentConfig,
    TrackingConfig,
    changed_environment,
    child_environment,
)
from minivess.errors import OrchestrationError
from minivess.home import Home
from minivess.orchestration import pages, prefect_server
from minivess.orchestration.background import Background
from minivess.orchestration.session import open_orchestrator
from minivess.runtime import servers
from minivess.runtime.servers import PROBE_LIMIT_S, Server, free_port, ports, read
from minivess.stages.doctor import stores
from minivess.stages.doctor.surroundings import Surroundings

pytestmark = pytest.mark.slow

Served = tuple[Home, Server]

HOLD = """
import sys, time
from pathlib import Path
from minivess.config import Environment
from minivess.orchestration import prefect_server
from minivess.home import open_home
with prefect_server.prefect_server(open_home(Path(sys.argv[1])), Environment()) as server:
    print(server.url, flush=True)
    time.sleep(600)
"""
UI = """
import sys
from pathlib import Path
from minivess.config import Environment, TrackingConfig
from minivess.home import open_home
from minivess.orchestration.background import Background
ports = dict(zip(("prefect", "mlflow"), map(int, sys.argv[2:])))
say = lambda line: print(line, flush=True)
Background(open_home(Path(sys.argv[1])), TrackingConfig(), Environment(), say).serve(ports)
"""
STAYS, ENDS = Environment(), Environment(server_idle_s=0)


def command(code: str, *words: object) -> subprocess.Popen[str]:
    """A command of its own in this home."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)],
        env=child_environment(),
        stdout=subprocess.PIPE,
        text=True,
    )


def background(home: Home) -> Background:
    """The servers of a home."""
    return Background(home, TrackingConfig(), Environment(home=home.root), print)


def line(process: subprocess.Popen[str]) -> str:
    """The next line that a command prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_server_that_runs_is_used_and_left_running(served: Served) -> None:
    home, server = served
    with prefect_server.prefect_server(home, ENDS) as again:
        assert again == server
    assert server.process.alive  # another command uses it


def test_a_server_of_our_own_takes_no_settings_that_are_meant_for_another(
    warm_home: Callable[[], Home], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    profiles = tmp_path / "profiles.toml"
    profiles.write_text(
        'active = "lab"\n[profiles.lab]\nPREFECT_SERVER_API_BASE_PATH = "/elsewhere"\n'
    )
    theirs = {
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": "postgresql+asyncpg://x@127.0.0.1:9/y",
        "PREFECT_SERVER_API_AUTH_STRING": "admin:secret",
        "PREFECT_SERVER_API_BASE_PATH": "/prefect",
        "PREFECT_PROFILE": "nobody",
        "PREFECT_PROFILES_PATH": str(profiles),
        "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "true",
    }
    caplog.set_level("INFO", "minivess")
    with (
        changed_environment(**theirs),
        open_orchestrator(warm_home(), ENDS) as engine,
    ):
        assert engine.flow("train", lambda: engine.task("step", lambda: 7)) == 7
    assert "does not use PREFECT_PROFILE, PREFECT_PROFILES_PATH" in caplog.text


def test_a_server_that_is_started_again_meanwhile_ends_no_flow(
    warm_home: Callable[[], Home],
) -> None:
    home, port, run_id = warm_home(), free_port(), []
    env = Environment(prefect_api_url=f"http://127.0.0.1:{port}/api", home=home.root)
    with ExitStack() as second:
        with prefect_server.prefect_server(home, STAYS, port=port) as first:
            pass

        def story() -> int:
            run_id.append(str(engine.page()).rpartition("/")[2])
            assert prefect_server.end_private(home.prefect) == first
            second.enter_context(prefect_server.prefect_server(home, STAYS, port=port))
            return engine.task("step", lambda: 7)

        with open_orchestrator(home, env) as engine:
            assert engine.flow("train", story) == 7
            assert engine.state(run_id[0]) == "completed"


# --- a server that stays ------------------------------------------------------------------


@dataclass
class Stay:
    """What one home's server did from its first command to `down`."""

    shared: list[str]
    after_kill: Server
    next_command: Server
    seconds: float
    doctor: str
    busy: pytest.ExceptionInfo[OrchestrationError]
    elsewhere: Server
    said: str
    other_version: pytest.ExceptionInfo[OrchestrationError]
    replaced: Server
    health: list[str]
    left: Server | None


@pytest.fixture
def stay(warm_home: Callable[[], Home], caplog: pytest.LogCaptureFixture) -> Stay:
    """Two commands at once are killed, then the server; a port is taken, a version is another."""
    caplog.set_level("INFO", "minivess")
    home = warm_home()
    servers = background(home)
    record, mine = home.prefect / prefect_server.PRIVATE, next(ports(str(home.prefect)))
    commands = [command(HOLD, home.root) for _ in range(2)]
    shared = [line(one) for one in commands]
    with pytest.raises(OrchestrationError) as busy:
        servers.down()
    for one in commands:
        one.kill()
        one.communicate()
    after_kill = read(record)
    assert after_kill is not None
    begun = time.monotonic()
    with prefect_server.prefect_server(home, STAYS) as next_command:
        seconds = time.monotonic() - begun
    doctor = stores.prefect(Surroundings(Environment(home=home.root), ExperimentConfig()))[1]
    os.kill(after_kill.process.pid, signal.SIGKILL)
    while after_kill.process.alive:
        time.sleep(0.05)
    with (
        socket.create_server(("127.0.0.1", mine)),
        prefect_server.prefect_server(home, STAYS) as elsewhere,
    ):
        files.write_json(record, asdict(replace(elsewhere, version="3.0.0")))
        with (
            pytest.raises(OrchestrationError) as other_version,
            prefect_server.prefect_server(home, STAYS),
        ):
            pass
    with prefect_server.prefect_server(home, STAYS) as replaced:
        pass
    health = [str(row["name"]) for row in servers.health()["servers"] if row["well"]]
    servers.down()
    left = prefect_server.running(home.prefect)
    return Stay(
        shared, after_kill, next_command, seconds, doctor, busy, elsewhere, caplog.text,
        other_version, replaced, health, left,
    )  # fmt: skip


def test_a_server_stays_for_the_next_command_of_its_home_and_version(stay: Stay) -> None:
    port = stay.shared[0].rpartition(":")[2]
    assert stay.shared[0] == stay.shared[1] == stay.next_command.url
    assert stay.next_command == stay.after_kill
    assert stay.seconds < 2
    assert stay.doctor.startswith(f"{stay.next_command.api} answers, version 3.")
    # Killed, and its port taken meanwhile: another one, which says so.
    assert stay.elsewhere.url != stay.next_command.url
    assert f"Port {port} is taken by" in stay.said
    assert "Starting Prefect's server (about 5 s)" in stay.said
    # Used by somebody it is refused, else replaced, on the port of this home again.
    assert "is of version 3.0.0" in stay.other_version.value.problem
    assert not stay.elsewhere.process.alive
    assert stay.replaced.url == stay.next_command.url
    assert stay.health == ["private"]
    assert "A command uses" in stay.busy.value.problem
    assert stay.left is None
    assert not stay.replaced.process.alive


def test_a_record_that_was_copied_with_its_folder_names_no_server_there(
    served: Served, home: Home
) -> None:
    shutil.copytree(served[0].prefect, home.prefect)
    assert prefect_server.running(home.prefect) is None


def test_a_server_whose_starter_dies_before_recording_it_never_starts(home: Home) -> None:
    launch = servers.Launch(
        "a sleeper", ("this",), 1, "", {}, home.logs / "log", home.prefect / "record.json"
    )
    home.prefect.mkdir()
    child = servers.spawned(launch)
    assert child.stdin is not None
    child.stdin.close()  # what the system does for a starter that was killed
    assert child.wait(timeout=120) == 1


def test_a_record_of_another_host_is_not_ours_to_use_or_end(home: Home, served: Served) -> None:
    record = home.prefect / prefect_server.PRIVATE
    foreign = replace(served[1], host="elsewhere", folder=str(home.prefect))
    files.write_json(record, asdict(foreign))
    assert prefect_server.running(home.prefect) is None
    servers.clear(record, "a server", free_port(), "remedy")
    assert prefect_server.end_private(home.prefect, force=True) is None
    assert served[1].process.alive


def test_a_server_that_cannot_start_says_where_to_read_why(home: Home) -> None:
    home.prefect.mkdir()
    (home.prefect / "prefect.db").write_text("not a database, " * 100)
    with (
        pytest.raises(OrchestrationError, match=r"prefect-server\.log.*PREFECT_DISABLED=1"),
        prefect_server.prefect_server(home, STAYS),
    ):
        pass
    assert not (home.prefect / prefect_server.PRIVATE).exists()


# --- PREFECT_API_URL -----------------------------------------------------------------------


def test_a_given_server_is_used_as_it_is(served: Served, home: Home) -> None:
    env = Environment(prefect_api_url=served[1].api)
    with prefect_server.connect(home, env) as api:
        assert api == served[1].api
    assert not home.prefect.exists()


def test_an_address_where_nobody_listens_is_named_with_its_remedy() -> None:
    with pytest.raises(
        OrchestrationError, match=r"127\.0\.0\.1:9/api.*(?s:.)*unset PREFECT_API_URL"
    ):
        prefect_server.probe("http://127.0.0.1:9/api")


def test_an_address_that_accepts_and_stays_silent_is_given_up_soon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert PROBE_LIMIT_S == 5.0
    monkeypatch.setattr("minivess.runtime.servers.PROBE_LIMIT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/api"
        with pytest.raises(OrchestrationError, match="does not answer"):
            prefect_server.probe(address)


@pytest.mark.parametrize("path", ["", "/api/nothing"])
def test_an_address_that_is_no_prefect_api_is_told_from_a_silent_one(
    served: Served, path: str
) -> None:
    with pytest.raises(OrchestrationError, match="is no Prefect API"):
        prefect_server.probe(served[1].url + path)


# --- minivess ui ---------------------------------------------------------------------------


def test_a_busy_port_is_named_with_who_has_it_and_a_way_out(home: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OrchestrationError) as refused:
            background(home).serve({"prefect": port, "mlflow": None})
    assert f"Port {port} for Prefect's server is taken by" in refused.value.problem
    assert f"pid {os.getpid()}" in refused.value.problem
    assert "minivess ui --prefect-port" in refused.value.remedy


def test_the_pages_show_flows_live_and_end_with_ctrl_c(warm_home: Callable[[], Home]) -> None:
    home, ports = warm_home(), (free_port(), free_port())
    left = leave_page(home, *ports)
    with prefect_server.prefect_server(home, STAYS) as server:
        assert server == left  # flows use the page of a killed ui, and do not end it
    ui = command(UI, home.root, *ports)
    shown = [line(ui) for _ in range(4)][2:]
    assert not left.process.alive  # the next ui does
    try:
        assert [url.split()[1] for url in shown] == [f"http://127.0.0.1:{port}" for port in ports]
        assert "Model training" in shown[1]
        for port in ports:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=120) as page:
                assert b"<html" in page.read().lower()
        with open_orchestrator(home, Environment()) as engine:
            assert f":{ports[0]}/" in str(engine.flow("train", lambda: engine.page("live")))
        with pytest.raises(OrchestrationError, match="already runs"):
            background(home).serve({"prefect": None, "mlflow": None})
        found = [read(home.prefect / prefect_server.UI), read(home.root / pages.MLFLOW)]
        assert all(server is not None and server.process.alive for server in found)
    finally:
        ui.send_signal(signal.SIGINT)
        ui.communicate(timeout=300)
    assert ui.returncode == 0
    assert not any(server is not None and server.process.alive for server in found)


def leave_page(home: Home, *ports: int) -> Server:
    """Kill a `minivess ui` as soon as its Prefect page answers."""
    killed = command(UI, home.root, *ports)
    while (server := prefect_server.running(home.prefect)) is None:
        time.sleep(0.1)
    killed.kill()
    killed.communicate()
    # It may have begun with MLflow's server, which stands in its own group.
    servers.clear(home.root / pages.MLFLOW, "MLflow's server", free_port(), "remedy")
    return server


def test_log_lines_are_kept_for_a_week(warm_home: Callable[[], Home]) -> None:
    home = warm_home()
    with closing(sqlite3.connect(home.prefect / "prefect.db", isolation_level=None)) as database:
        for days in (1, 8):
            database.execute(
                "INSERT INTO log (id, name, level, message, timestamp) "
                "VALUES (?, 'minivess', 20, 'line', datetime('now', ?))",
                (f"{days:032x}", f"-{days} days"),
            )
        prefect_server.tidy(home, home.prefect)
        kept = database.execute("SELECT id FROM log WHERE message = 'line'").fetchall()
    assert kept == [(f"{1:032x}",)]
