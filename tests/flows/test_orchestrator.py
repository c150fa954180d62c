"""Stories as Prefect flows on a real server, and the same stories as plain Python."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from uuid import UUID

import psutil
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import FlowRun

from minivess.config import Environment, child_environment
from minivess.errors import DataError, OrchestrationError, RemoteError, StoreError
from minivess.home import Home, open_home
from minivess.orchestration import prefect_server
from minivess.orchestration.base import Orchestrator
from minivess.orchestration.session import open_orchestrator
from minivess.runtime.processes import Server

pytestmark = pytest.mark.slow

Served = tuple[Home, Server]


@pytest.fixture
def watched(served: Served) -> Iterator[Orchestrator]:
    """Stories as Prefect flows."""
    with open_orchestrator(served[0], Environment()) as engine:
        yield engine


@pytest.fixture(params=["prefect", "plain"])
def engine(request: pytest.FixtureRequest, served: Served, home: Home) -> Iterator[Orchestrator]:
    """Both ways to run stories: whatever a test says holds for each."""
    plain = request.param == "plain"
    env = Environment(prefect_disabled=plain)
    with open_orchestrator(home if plain else served[0], env) as made:
        yield made


def test_a_story_gets_its_own_objects_and_gives_back_its_own(engine: Orchestrator) -> None:
    given, made = object(), object()

    def story(what: object, *, times: int) -> tuple[object, object]:
        return engine.task("step", lambda inner: inner, what), [made] * times

    assert engine.flow("train", story, given, times=2) == (given, [made, made])


def test_the_failure_of_a_story_comes_out_as_it_was_raised(engine: Orchestrator) -> None:
    failure = DataError("vol03 has no label", remedy="add it")

    def story() -> None:
        engine.task("step", fail)

    def fail() -> None:
        raise failure

    with pytest.raises(DataError) as caught:
        engine.flow("train", story)
    assert caught.value is failure


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), SystemExit(143)])
def test_an_interruption_passes_through_flow_and_task(
    engine: Orchestrator, stop: BaseException
) -> None:
    def work() -> None:
        raise stop

    with pytest.raises(type(stop)):
        engine.flow("train", lambda: engine.task("step", work))


@pytest.mark.parametrize(
    ("failure", "runs"), [(OSError("gone"), 3), (StoreError("gone", remedy=""), 3),
                          (RemoteError("gone", remedy=""), 3), (DataError("bad", remedy=""), 1)],
)  # fmt: skip
def test_only_failures_that_may_pass_are_tried_again(
    engine: Orchestrator, failure: Exception, runs: int
) -> None:
    tried = []

    def work() -> None:
        tried.append(1)
        raise failure

    with pytest.raises(type(failure)):
        engine.flow("train", lambda: engine.task("step", work, retries=2, retry_delay_s=0.01))
    assert len(tried) == runs


def test_the_result_of_a_second_try_counts(engine: Orchestrator) -> None:
    answers: list[Exception | str] = [OSError("gone"), "here"]

    def work() -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def story() -> str:
        return engine.task("step", work, retries=1, retry_delay_s=0.01)

    assert engine.flow("train", story) == "here"


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


def test_each_wait_before_a_new_try_is_twice_as_long(engine: Orchestrator) -> None:
    tried: list[float] = []

    def work() -> None:
        tried.append(time.monotonic())
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        engine.flow("train", lambda: engine.task("step", work, retries=2, retry_delay_s=0.2))
    assert tried[1] - tried[0] >= 0.2
    assert tried[2] - tried[1] >= 0.4


def test_a_step_that_takes_too_long_is_stopped_and_not_tried_again(
    engine: Orchestrator,
) -> None:
    tried: list[int] = []

    def work() -> None:
        tried.append(1)
        with suppress(Exception):  # what a library may do
            threading.Event().wait(60)

    with pytest.raises(OrchestrationError, match="took longer"):
        engine.flow("train", lambda: engine.task("step", work, retries=2, limit_s=0.2))
    assert tried == [1]


def test_a_pointer_reads_back_and_the_later_one_wins(engine: Orchestrator) -> None:
    assert engine.get("latest_never") is None
    for run_ids in (["a"], ["a", "b"]):
        engine.put("latest_training", {"run_ids": run_ids})
    assert engine.get("latest_training") == {"run_ids": ["a", "b"]}


@pytest.mark.parametrize(
    ("name", "value"), [("Latest Training", {}), ("latest", {"ids": ["x" * 32] * 200})]
)
def test_pointers_that_prefect_could_not_hold_are_refused_everywhere(
    engine: Orchestrator, name: str, value: dict[str, list[str]]
) -> None:
    with pytest.raises(OrchestrationError, match="pointer"):
        engine.put(name, value)


def test_pointers_created_at_the_same_time_are_all_kept(engine: Orchestrator) -> None:
    engine.get("latest_race")  # connects
    puts = [
        threading.Thread(target=engine.put, args=("latest_race", {"run_id": str(n)}))
        for n in range(4)
    ]
    for put in puts:
        put.start()
    for put in puts:
        put.join()
    assert engine.get("latest_race") in [{"run_id": str(n)} for n in range(4)]


def test_showing_something_never_stops_a_story(engine: Orchestrator) -> None:
    def story() -> str:
        engine.markdown("Data Profile!", "# tubes")
        engine.table("losses", [{"dice": math.nan, "path": Path("x")}], "families")
        engine.link("mlflow-run", "http://127.0.0.1:5000", "run")
        move = engine.progress("epochs", "of fold 0")
        move(0.5)
        move(1.0)
        engine.emit("minivess.data.profiled", "minivess.dataset.tubes", {"n": 3})
        return "done"

    story()
    assert engine.flow("train", story) == "done"


def test_pointers_survive_a_torn_file(home: Home) -> None:
    home.pointers.write_text('{"latest')
    with open_orchestrator(home, Environment(prefect_disabled=True)) as plain:
        assert plain.get("latest_training") is None
        plain.put("latest_training", {"run_ids": []})
        assert plain.get("latest_training") == {"run_ids": []}


# --- what Prefect's page then shows --------------------------------------------------------


def test_the_page_shows_settings_tasks_and_end_of_a_flow(watched: Orchestrator) -> None:
    settings = {"dataset": "tubes", "learning_rate": 1e-3, "root": Path("/data"), "z": math.inf}
    page = watched.flow(
        "shown",
        lambda: watched.task("measure volumes", lambda: watched.page("live")),
        parameters=settings,
    )
    run = flow_run(page)
    assert run.state_name == "Completed"
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
env = environment()
def story():
    print("running", flush=True)
    {body}
try:
    with open_orchestrator(open_home(env.home), env) as engine:
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
    assert process.communicate(timeout=300)[1].strip() == "nothing paired\n  Try: look"


def test_sigterm_unwinds_the_story_and_ends_the_private_server(
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
    assert not server.process.alive


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

    with open_orchestrator(home, Environment()) as engine:
        killed = engine.flow("train", story)
        engine.put("latest_training", {"run_ids": ["a"]})
        successor = prefect_server.running(home.prefect)
        assert successor is not None
        assert successor != killed
        assert engine.flow("analyse", engine.get, "latest_training") == {"run_ids": ["a"]}
    assert not successor.process.alive


def test_an_address_that_does_not_answer_stops_the_first_flow(tmp_path: Path) -> None:
    env = Environment(prefect_api_url="http://127.0.0.1:9/api")
    with (
        open_orchestrator(open_home(tmp_path / "h"), env) as engine,
        pytest.raises(OrchestrationError, match=r"127\.0\.0\.1:9/api does not answer"),
    ):
        engine.flow("train", lambda: None)
