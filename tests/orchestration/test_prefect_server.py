"""Servers are started once, found again, and never left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from minivess.config import Environment, TrackingConfig, changed_environment, child_environment
from minivess.errors import OrchestrationError
from minivess.home import Home
from minivess.orchestration import pages, prefect_server
from minivess.orchestration.session import open_orchestrator
from minivess.runtime import servers
from minivess.runtime.servers import PROBE_LIMIT_S, Server, end_leftover, free_port, read

pytestmark = pytest.mark.slow

Served = tuple[Home, Server]

HOLD = """
import sys, time
from pathlib import Path
from minivess.orchestration import prefect_server
from minivess.home import open_home
with prefect_server.prefect_server(open_home(Path(sys.argv[1]))) as server:
    print(server.url, flush=True)
    time.sleep(600)
"""
UI = """
import sys
from pathlib import Path
from minivess.orchestration import pages
from minivess.config import Environment, TrackingConfig
from minivess.home import open_home
ports = dict(zip(("prefect_port", "mlflow_port"), map(int, sys.argv[2:])))
pages.serve(open_home(Path(sys.argv[1])), TrackingConfig(), env=Environment(), **ports)
"""


def command(code: str, *words: object) -> subprocess.Popen[str]:
    """A command of its own in this home."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)],
        env=child_environment(),
        stdout=subprocess.PIPE,
        text=True,
    )


def line(process: subprocess.Popen[str]) -> str:
    """The next line that a command prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_server_that_runs_is_used_and_left_running(served: Served) -> None:
    home, server = served
    with prefect_server.prefect_server(home) as again:
        assert again == server
    assert server.process.alive


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
        open_orchestrator(warm_home(), Environment()) as engine,
    ):
        assert engine.flow("train", lambda: engine.task("step", lambda: 7)) == 7
    assert "does not use PREFECT_PROFILE, PREFECT_PROFILES_PATH" in caplog.text


def test_a_server_that_is_started_again_meanwhile_ends_no_flow(
    warm_home: Callable[[], Home],
) -> None:
    home, port, run_id = warm_home(), free_port(), []
    env = Environment(prefect_api_url=f"http://127.0.0.1:{port}/api", home=home.root)
    with ExitStack() as first, ExitStack() as second:
        first.enter_context(prefect_server.prefect_server(home, port=port))

        def story() -> int:
            run_id.append(str(engine.page()).rpartition("/")[2])
            first.close()
            second.enter_context(prefect_server.prefect_server(home, port=port))
            return engine.task("step", lambda: 7)

        with open_orchestrator(home, env) as engine:
            assert engine.flow("train", story) == 7
            assert engine.state(run_id[0]) == "completed"


def test_what_a_killed_command_left_is_ended_by_the_next(warm_home: Callable[[], Home]) -> None:
    home = warm_home()
    killed = command(HOLD, home.root)
    url = line(killed)
    left = read(home.prefect / prefect_server.PRIVATE)
    killed.kill()
    killed.communicate()
    assert left is not None
    assert left.url == url
    assert left.process.alive
    with prefect_server.prefect_server(home) as server:
        assert server.url != url
        assert not left.process.alive
    assert not server.process.alive
    assert not (home.prefect / prefect_server.PRIVATE).exists()


def test_a_server_whose_starter_dies_before_recording_it_never_starts(home: Home) -> None:
    launch = servers.Launch(
        "a sleeper", ("this",), 1, "", {}, home.logs / "log", home.prefect / "record.json"
    )
    home.prefect.mkdir()
    with servers.spawned(launch) as child:
        assert child.stdin is not None
        child.stdin.close()  # what the system does for a starter that was killed
        assert child.wait(timeout=120) == 1


def test_a_record_of_another_host_is_not_ours_to_use_or_end(home: Home, served: Served) -> None:
    text = (served[0].prefect / prefect_server.PRIVATE).read_text()
    home.prefect.mkdir()
    record = home.prefect / prefect_server.PRIVATE
    record.write_text(text.replace(socket.gethostname(), "elsewhere"))
    assert prefect_server.running(home.prefect) is None
    end_leftover(record)
    assert served[1].process.alive


def test_a_server_that_cannot_start_says_where_to_read_why(home: Home) -> None:
    home.prefect.mkdir()
    (home.prefect / "prefect.db").write_text("not a database, " * 100)
    with (
        pytest.raises(OrchestrationError, match=r"prefect-server\.log.*PREFECT_DISABLED=1"),
        prefect_server.prefect_server(home),
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
            pages.serve(home, TrackingConfig(), env=Environment(), prefect_port=port)
    assert f"Port {port} for Prefect's server is taken by" in refused.value.problem
    assert f"pid {os.getpid()}" in refused.value.problem
    assert "minivess ui --prefect-port" in refused.value.remedy


def test_the_pages_show_flows_live_and_end_with_ctrl_c(warm_home: Callable[[], Home]) -> None:
    home, ports = warm_home(), (free_port(), free_port())
    left = leave_page(home, *ports)
    with prefect_server.prefect_server(home) as server:
        assert server == left  # flows use the page of a killed ui, and do not end it
    ui = command(UI, home.root, *ports)
    shown = [line(ui), line(ui)]
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
            pages.serve(home, TrackingConfig(), env=Environment())
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
    end_leftover(home.root / pages.MLFLOW)
    return server
