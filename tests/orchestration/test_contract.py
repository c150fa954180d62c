"""The contract of an orchestrator, for the plain one and for Prefect on a real server."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from minivess.config import Environment
from minivess.errors import DataError, OrchestrationError, RemoteError, StoreError
from minivess.home import Home
from minivess.orchestration.base import Orchestrator
from minivess.orchestration.session import open_orchestrator
from minivess.runtime.servers import Server

Served = tuple[Home, Server]


@pytest.fixture(params=["prefect", "plain"])
def engine(request: pytest.FixtureRequest, home: Home) -> Iterator[Orchestrator]:
    """Each orchestrator: what a test says holds for both."""
    plain = request.param == "plain"
    if not plain:
        home = request.getfixturevalue("served")[0]
    with open_orchestrator(home, Environment(prefect_disabled=plain)) as made:
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
