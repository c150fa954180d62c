"""End Prefect's flow runs with the same status as MLflow's runs, also after a killed process.

Each flow run of this home has a small file while it runs, which identifies its process. A process
that was killed leaves the file behind; the next command that reaches Prefect's server ends the
flow run, with the same cause as the MLflow runs of that process.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from minivess import files
from minivess.errors import DiskFull
from minivess.orchestration import prefect_client
from minivess.runtime import liveness, oom
from minivess.runtime.signals import Terminated
from minivess.tracking.run import dead_runs
from minivess.tracking.run.run_lifecycle import status_of_error

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import State

T = TypeVar("T")

FOLDER = "flow-runs"
CANCEL_POLL_S = 5.0
# MLflow's status -> Prefect's type of state.
STATES = {"FINISHED": "COMPLETED", "FAILED": "FAILED", "KILLED": "CRASHED"}
log = logging.getLogger(__name__)


class Cancelled(Terminated):
    """This flow was cancelled on Prefect's page."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)

    def __str__(self) -> str:
        return "cancelled on Prefect's page"


def begin(prefect_home: Path, flow_run_id: UUID, api: str | None) -> Path:
    """Write the file of a flow run; `api` is the server's address where the user gave one."""
    content = {"api": api, "process": liveness.identity() | oom.tags(), "ended": None}
    return files.write_json(prefect_home / FOLDER / f"{flow_run_id}.json", content)


def carry_out(story: Callable[[], T], record: Path, *, within_worker: bool) -> T | State[Any]:
    """Run a stage within its flow run; returns its result, or the state to end the flow run with.

    Prefect takes every exit for a crash; here exit code 0 is a completed flow, another one a
    failed flow, and a flow that was cancelled on the page ends as cancelled. A worker handles
    cancellation itself. The end is noted in `record`, in case Prefect cannot be reached.
    """
    try:
        with nullcontext() if within_worker else cancellable(UUID(record.stem)):
            result = story()
    except BaseException as error:
        kind, message = ending(error)
        _note(record, kind, message)
        if not isinstance(error, SystemExit) or kind == "CRASHED" or within_worker:
            raise
        return state(kind, message)
    _note(record, "COMPLETED", "")
    return result


def ending(error: BaseException) -> tuple[str, str]:
    """Prefect's type of state for an exception of a stage, and the reason."""
    message = f"{type(error).__name__}: {error}"
    if isinstance(error, Cancelled):
        return "CANCELLED", message
    return STATES[status_of_error(error)], message


def _note(record: Path, kind: str, message: str) -> None:
    try:
        files.write_json(record, {**files.read_json(record), "ended": [kind, message]})
    except DiskFull as error:
        log.warning("%s The next command ends the flow run.", error.problem)


@contextmanager
def cancellable(flow_run_id: UUID) -> Iterator[None]:
    """Let `Cancel` on Prefect's page end the stage of this process, as a worker would.

    A thread asks every few seconds; the stage receives `Cancelled` in the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked, over = threading.Event(), threading.Event()
    before = signal.getsignal(signal.SIGTERM)

    def leave(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            raise Cancelled
        if callable(before):
            before(number, frame)
        else:
            raise SystemExit(128 + number)

    def watch() -> None:

        with prefect_client.asking() as client:
            while not over.wait(CANCEL_POLL_S):
                if _is_cancelled(client, flow_run_id) and not over.is_set():
                    asked.set()
                    os.kill(os.getpid(), signal.SIGTERM)
                    return

    signal.signal(signal.SIGTERM, leave)
    threading.Thread(target=watch, name="cancellation", daemon=True).start()
    try:
        yield
    finally:
        over.set()
        signal.signal(signal.SIGTERM, before)


def _is_cancelled(client: SyncPrefectClient, flow_run_id: UUID) -> bool:
    try:
        state = client.read_flow_run(flow_run_id).state
    except prefect_client.failures() as error:
        log.debug("Prefect's server was not asked whether to stop: %s", error)
        return False
    return state is not None and state.type.value in ("CANCELLING", "CANCELLED")


# --- after a death ------------------------------------------------------------------------


def left(prefect_home: Path) -> list[Path]:
    """Files of flow runs whose process ran on this host and is gone."""
    return [
        record
        for record in sorted((prefect_home / FOLDER).glob("*.json"))
        if liveness.is_gone(files.read_json(record)["process"])
    ]


def settle(prefect_home: Path, api: str | None) -> list[str]:
    """End flow runs whose process died, tasks included; the client must reach the server.

    One that has ended stays as it is, and one that this server does not know waits for the
    server at the address that its file names. Returns the ids of those that were ended.
    """
    records = left(prefect_home)
    if not records:
        return []
    from prefect.exceptions import ObjectNotFound

    settled = []
    with prefect_client.asking() as client:
        for record in records:
            content = files.read_json(record)
            try:
                if _end(client, UUID(record.stem), content):
                    settled.append(record.stem)
            except ObjectNotFound:
                if content["api"] != api:
                    continue
            record.unlink(missing_ok=True)
    return settled


def _end(client: SyncPrefectClient, flow_run_id: UUID, content: dict[str, Any]) -> bool:
    from prefect.client.schemas.filters import (
        FlowRunFilter,
        FlowRunFilterId,
        TaskRunFilter,
        TaskRunFilterState,
        TaskRunFilterStateType,
    )
    from prefect.client.schemas.objects import StateType
    from prefect.states import Crashed

    before = client.read_flow_run(flow_run_id).state
    if before is not None and before.is_final():
        return False
    new = state(*(content["ended"] or _death(content["process"])))
    client.set_flow_run_state(flow_run_id, new, force=True)
    going_on = TaskRunFilterStateType(any_=[StateType.PENDING, StateType.RUNNING])
    open_tasks = client.read_task_runs(
        flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id])),
        task_run_filter=TaskRunFilter(state=TaskRunFilterState(type=going_on)),
    )
    for task in open_tasks:
        client.set_task_run_state(task.id, Crashed(message=new.message), force=True)
    log.info("Flow run %s is %s: %s", flow_run_id, new.name, new.message)
    return True


def _death(tags: dict[str, str]) -> tuple[str, str]:
    found = dead_runs.cause(tags)
    return "CRASHED", f"{found['error_type']}: {found['error_message']}"


def state(kind: str, message: str) -> State[Any]:
    """A state of Prefect's, by its type."""
    from prefect.client.schemas.objects import State, StateType

    return State(type=StateType(kind), name=kind.capitalize(), message=message)
