"""Send a command to a work pool, and follow its flow run (`--deployed`)."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from minivess.errors import OrchestrationError
from minivess.orchestration import prefect_client
from minivess.orchestration.base import Orchestrator
from minivess.orchestration.session import Session
from minivess.text import several

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import Log

POLL_S = 2.0
PAGE = 200


def submit(
    session: Session,
    verb: str,
    *,
    upstream: Sequence[str] = (),
    pool: str | None = None,
    detach: bool = False,
) -> dict[str, Any]:
    """Send the words of `verb` to its deployment, and follow the flow run unless `detach`.

    Raises:
        OrchestrationError: no server that workers could ask, no deployment, or several.
    """
    files = [str(Path(word).resolve()) for word in session.words if _is_file(word)]
    parameters: dict[str, Any] = {"settings": settings(session), "files": files}
    if verb != "experiment":
        parameters["upstream"] = list(upstream)
    engine = session.orchestrator
    place = deployment(engine, verb, pool)
    run_id = engine.submit(place, parameters, f"{verb} · {session.config.experiment}")
    page = engine.page_of(run_id)
    session.print(f"  sent to {place}: {page}")
    outcome: dict[str, Any] = {"flow_run_id": run_id, "deployment": place, "page": page}
    if detach:
        return outcome
    state = follow(session, run_id)
    return outcome | {"state": state, "exit_code": 0 if state == "Completed" else 1}


def settings(session: Session) -> list[str]:
    """The typed overrides; the folder of the data as the worker, elsewhere, has to name it."""
    typed = [w for w in session.words if not _is_file(w) and not w.startswith("data.root=")]
    root = session.config.data.root
    return typed if root is None else [*typed, f"data.root={root}"]


def _is_file(word: str) -> bool:
    return "=" not in word


def deployment(engine: Orchestrator, verb: str, pool: str | None) -> str:
    """The deployment of a flow on a pool, as `flow/name`.

    Raises:
        OrchestrationError: there is none, or several and no pool is named.
    """
    known = engine.deployments(verb)
    chosen = [name for name, of_pool in known.items() if pool in (None, of_pool)]
    if len(chosen) == 1:
        return chosen[0]
    there = ", ".join(f"{name} on {of_pool}" for name, of_pool in known.items()) or "none"
    what = f" on the pool {pool!r}" if pool else ""
    raise OrchestrationError(
        f"There are {several(len(chosen), 'deployment')} of `{verb}`{what}; registered: {there}.",
        remedy="--pool NAME says which" if chosen else "minivess up, which registers the flows",
    )


def follow(session: Session, run_id: str) -> str:
    """Print state and log of a flow run until it ends; returns its last state.

    Ctrl-C asks whether to cancel it; without a terminal it goes on.
    """

    with prefect_client.asking() as client:
        try:
            return _followed(session, client, UUID(run_id))
        except KeyboardInterrupt:
            if sys.stdin.isatty() and input("\nCancel the flow run? [y/N] ").lower() == "y":
                session.orchestrator.cancel(run_id)
                session.print("  cancelled")
                return "Cancelled"
            session.print("  it goes on; its page shows how")
            raise


def _followed(session: Session, client: SyncPrefectClient, run_id: UUID) -> str:
    before, seen = "", 0
    while True:
        run = client.read_flow_run(run_id)
        state = str(run.state.name) if run.state else "Pending"
        lines = _lines(client, run_id, seen)
        for line in lines:
            if line.name.startswith("minivess"):
                session.print(f"  {line.message.strip()}")
        seen += len(lines)
        if state != before:
            waits = "; it waits for a worker (minivess health)" if state == "Late" else ""
            session.print(f"  {state}{waits}")
            before = state
        if run.state is not None and run.state.is_final() and not lines:
            return state
        time.sleep(POLL_S)


def _lines(client: SyncPrefectClient, run_id: UUID, seen: int) -> list[Log]:
    from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId

    only = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run_id]))
    return client.read_logs(only, limit=PAGE, offset=seen)
