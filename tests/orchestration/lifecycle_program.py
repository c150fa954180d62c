"""Ways in which a run may end, each in a fork of one process that has imported everything.

Words: home, Prefect's address, a folder for signs of life, a control group or `-`, then the ways.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path

from prefect import flow
from sqlalchemy.orm import configure_mappers

from minivess import config, names
from minivess.orchestration import flow_runs
from minivess.orchestration import prefect as watched
from minivess.orchestration.session import Session, open_session
from minivess.runtime import signals
from minivess.tracking.run import environment, run_lifecycle
from minivess.tracking.run.run import Run, attach_run
from minivess.tracking.store.connection import preload

PARENT = "parent dies, child lives"
QUIET = config.ExperimentConfig(tracking=config.TrackingConfig(log_system_metrics=False))


def sign(name: str, text: str = "") -> None:
    """Tell whoever waits for it."""
    path = Path(os.environ["MINIVESS_TEST_SIGNS"]) / name
    path.with_suffix(".tmp").write_text(text)
    path.with_suffix(".tmp").rename(path)


def heard(name: str) -> str:
    """Wait for a sign."""
    path = Path(os.environ["MINIVESS_TEST_SIGNS"]) / name
    while not path.exists():
        time.sleep(0.05)
    return path.read_text()


def opened(session: Session, name: str, parent: Run | None = None) -> AbstractContextManager[Run]:
    """A run as the flows open it."""
    return run_lifecycle.mlflow_run(
        session.store, experiment="endings", name=name, kind=names.CELL, key=name, note="n",
        dataset="d", config=session.config, ingredients={}, parent=parent,
    )  # fmt: skip


def story(session: Session, way: str) -> None:
    """A flow with a parent run, a child run in the same process, and a task."""
    with opened(session, way) as parent, opened(session, f"{way}: fold", parent):
        session.orchestrator.task("work", work, way, parent.run_id)


def work(way: str, run_id: str) -> None:
    """Say that it began, then end in this way."""
    current = watched.flow_run()
    assert current is not None
    assert current.flow_run is not None
    sign(way, f"{current.flow_run.id} {run_id}")
    if way == "exception":
        raise ValueError("bad voxel")
    if way.startswith("exit"):
        sys.exit(int(way[-1]))
    eaten = []
    while way not in ("return", "worker dies"):
        time.sleep(0.02)
        if way == "out of memory":
            eaten.append(b"x" * 2**24)
    if way == "worker dies":
        heard("worker is dead")


def living_child() -> None:
    """A child run in a process of its own, which outlives the parent's process."""
    os.setsid()
    run_id = heard(PARENT).split()[1]
    with open_session(QUIET, config.environment(), lock=False) as session:
        with opened(session, "living child", attach_run(session.store, run_id)):
            sign("living child")
            heard("child may end")
        sign("child has ended")


def command(way: str, group: str) -> None:
    """What the command line does around a story."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if way == PARENT and not os.fork():
        living_child()
        os._exit(0)
    if way == "out of memory":
        (Path(group) / "cgroup.procs").write_text(str(os.getpid()))
    with signals.terminable(), open_session(QUIET, config.environment(), lock=False) as session:
        session.orchestrator.flow("command", story, session, way)


@flow(name="deployed", persist_result=False)
def deployed(way: str) -> None:
    """The same as a worker runs it."""
    with open_session(QUIET, config.environment(), lock=False) as session:
        session.orchestrator.flow("deployed", story, session, way)


def main(group: str, *ways: str) -> None:
    """Import all that is slow and opens nothing, then fork."""
    preload()
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401
    import prefect.main  # noqa: F401

    configure_mappers()
    environment.collect()
    flow_runs.CANCEL_POLL_S = 0.3
    for way in ways:
        pid = os.fork()
        if not pid:
            try:
                command(way, group)
            finally:
                os._exit(0)
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()
    for _ in ways:
        os.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
