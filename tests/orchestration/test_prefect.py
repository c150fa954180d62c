"""What Prefect adds: cached results, its page, and its server."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import psutil
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import FlowRun

from minivess.config import Environment, child_environment
from minivess.errors import DataError, OrchestrationError
from minivess.home import Home, open_home
from minivess.orchestration import prefect_server
from minivess.orchestration.base import Orchestrator
from minivess.orchestration.session import open_orchestrator
from minivess.runtime.servers import Server

pytestmark = pytest.mark.slow

Served = tuple[Home, Server]


def ended(server: Server) -> bool:
    """Whether a server that is not to stay ends by itself."""
    deadline = time.monotonic() + 120
    while server.process.alive and time.monotonic() < deadline:
        time.sleep(0.1)
    return not server.process.alive


@pytest.fixture
def watched(served: Served) -> Iterator[Orchestrator]:
    """Stories as Prefect flows."""
    with open_orchestrator(served[0], Environment()) as engine:
        yield engine


def test_work_with_a_key_is_done_once_and_again_when_its_result_is_lost(
    watched: Orchestrator, served: Served
) -> None:
    done = []

    def work() -> tuple[str, int]:
        done.append(1)
        return "measured", len(done)

    def story(key: str) -> tuple[str, int]:
        return watched.task("step", work, key=key)

    assert [watched.flow("train", story, key) for key in ("one", "one", "two", "one")] == [
        ("measured", 1), ("measured", 1), ("measured", 2), ("measured", 1),
    ]  # fmt: skip
    storage = prefect_server.folder_of(served[0], Environment()) / "storage"
    for content in ("damaged", None):
        (storage / "one").write_text(content) if content else (storage / "one").unlink()
        assert watched.flow("train", story, "one") == ("measured", len(done))
    assert len(done) == 4


def test_work_with_a_key_that_fails_is_not_kept(watched: Orchestrator) -> None:
    answers: list[Exception | str] = [DataError("bad", remedy="mend"), "here"]

    def work() -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def story() -> str:
        return watched.task("step", work, key="fails")

    with pytest.raises(DataError):
        watched.flow("train", story)
    assert watched.flow("train", story) == "here"


# --- what Prefect's page then shows --------------------------------------------------------


def test_the_page_shows_settings_tasks_and_end_of_a_flow(watched: Orchestrator) -> None:
    settings = {"dataset": "tubes", "learning_rate": 1e-3, "root": Path("/data"), "z": math.inf}
    page = watched.flow(
        "shown",
        lambda: watched.task("measure volumes", lambda: watched.page("live")),
        parameters=settings,
        title="train · {tubes} · 1 model x 2 folds",
    )
    run = flow_run(page)
    assert (run.state_name, run.name) == ("Completed", "train · {tubes} · 1 model x 2 folds")
    assert run.tags == ["tubes"]
    assert run.parameters == {
        "settings": {"dataset": "tubes", "learning_rate": 1e-3, "root": "/data", "z": None}
    }
    assert watched.page() is None


def test_the_page_shows_a_failed_flow_as_failed(watched: Orchestrator) -> None:
    pages: list[str | None] = []

    def story() -> None:
        pages.append(watched.page())
        raise DataError("nothing paired", remedy="look")

    with pytest.raises(DataError):
        watched.flow("failing", story)
    assert flow_run(pages[0]).state_name == "Failed"
    assert str(pages[0]).startswith("http://127.0.0.1:4200/runs/flow-run/")


def test_artifacts_belong_to_the_run_that_made_them(watched: Orchestrator) -> None:
    def story() -> str | None:
        watched.markdown("report-of-tubes", "# Champion")
        watched.progress("bar-of-tubes", "cells")(1.0)
        return watched.page()

    page = watched.flow("shown", story)
    assert artifacts(page) == {"report-of-tubes": "# Champion", "bar-of-tubes": 100.0}


def test_a_story_within_a_flow_of_its_name_is_part_of_that_flow(watched: Orchestrator) -> None:
    def deployed() -> tuple[str | None, str | None]:
        return watched.page(), watched.flow("profile-data", watched.page)

    outer, inner = watched.flow("profile-data", deployed)
    assert outer == inner


def test_a_flow_within_another_flow_is_a_flow_of_its_own(watched: Orchestrator) -> None:
    outer, inner = watched.flow(
        "experiment", lambda: (watched.page(), watched.flow("train", watched.page))
    )
    assert outer != inner


def flow_run(page: str | None) -> FlowRun:
    """What the server itself knows about a flow run."""
    with get_client(sync_client=True) as client:
        return client.read_flow_run(UUID(str(page).rsplit("/", 1)[1]))


def artifacts(page: str | None) -> dict[str | None, object]:
    """What the server keeps for a flow run."""
    run_id = UUID(str(page).rsplit("/", 1)[1])
    wanted = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run_id]))
    with get_client(sync_client=True) as client:
        return {made.key: made.data for made in client.read_artifacts(artifact_filter=wanted)}


# --- the command's own process -------------------------------------------------------------

SCRIPT = """
import logging, sys, time
logging.basicConfig(level=logging.WARNING, format="%(message)s")
from minivess.config import environment
from minivess.errors import DataError
from minivess.home import open_home
from minivess.orchestration.session import open_orchestrator
from minivess.runtime.signals import terminable
env = environment()
def story():
    print("running", flush=True)
    {body}
try:
    with terminable(), open_orchestrator(open_home(env.home), env) as engine:
        engine.flow("train", lambda: engine.task("step", story))
except DataError as error:
    sys.exit(str(error))
"""


def command(body: str, **variables: str) -> subprocess.Popen[str]:
    """A command of its own that runs one story."""
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(body=body)],
        env=child_environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_an_expected_failure_brings_no_lines_of_prefect(served: Served) -> None:
    process = command(
        "raise DataError('nothing paired', remedy='look')", PREFECT_API_URL=served[1].api
    )
    page, *said = process.communicate(timeout=300)[1].splitlines()
    assert page == f"Prefect's page: {served[1].url}"
    assert said == ["nothing paired", "  Try: look"]


def test_sigterm_unwinds_the_story_and_ends_a_server_that_is_not_to_stay(
    warm_home: Callable[[], Home],
) -> None:
    home = warm_home()
    process = command(
        "time.sleep(600)", MINIVESS_HOME=str(home.root), PREFECT_HOME=str(home.prefect)
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    server = prefect_server.running(home.prefect)
    assert server is not None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=300)
    assert process.returncode == 143
    assert ended(server)


def test_deciding_that_all_is_reused_imports_no_prefect_and_starts_no_server(
    tmp_path: Path,
) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from minivess.orchestration.session import open_orchestrator\n"
        "from minivess.home import open_home; from minivess.config import Environment\n"
        f"home = open_home(Path({str(tmp_path / 'h')!r}))\n"
        "with open_orchestrator(home, Environment()) as o:\n"
        "    o.emit('a', 'b', {}); o.markdown('k', 't'); o.page()\n"
        "assert not home.prefect.exists()\n"
        "assert not [m for m in sys.modules if m.split('.')[0] in ('prefect', 'torch', 'mlflow')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_server_that_dies_loses_no_result_and_another_takes_over(
    warm_home: Callable[[], Home], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Fewer than usual: each attempt at the dead server costs seconds; a fresh one may answer 503.
    monkeypatch.setattr("minivess.orchestration.prefect_client.PRIVATE_RETRIES", "2")
    home = warm_home()

    def story() -> Server:
        server = prefect_server.running(home.prefect)
        assert server is not None
        psutil.Process(server.process.pid).kill()
        while server.process.alive:
            time.sleep(0.05)
        return server

    with open_orchestrator(home, Environment(server_idle_s=0)) as engine:
        killed = engine.flow("train", story)
        engine.put("latest_training", {"run_ids": ["a"]})
        successor = prefect_server.running(home.prefect)
        assert successor is not None
        assert successor != killed
        assert engine.flow("analyse", engine.get, "latest_training") == {"run_ids": ["a"]}
    assert ended(successor)


def test_an_address_that_does_not_answer_stops_the_first_flow(tmp_path: Path) -> None:
    env = Environment(prefect_api_url="http://127.0.0.1:9/api")
    with (
        open_orchestrator(open_home(tmp_path / "h"), env) as engine,
        pytest.raises(OrchestrationError, match=r"127\.0\.0\.1:9/api does not answer"),
    ):
        engine.flow("train", lambda: None)
