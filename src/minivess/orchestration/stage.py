"""Run one stage: find its finished result and reuse it, else make it; then publish it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from minivess import names
from minivess.orchestration import publication, results
from minivess.orchestration.session import Session

Result = TypeVar("Result", bound=publication.Result)


def stage(
    session: Session,
    kind: str,
    key: str,
    make: Callable[[], Result],
    *,
    usable: bool = True,
    reuse: Callable[[Result], Result] = lambda found: found,
    follow: Callable[[Result, bool], object] = lambda result, first: None,
) -> Result:
    """Return the result of a content key, made now unless a finished run holds it.

    Args:
        kind: `names.PROFILE`, `names.ANALYSIS` or `names.DEPLOYMENT`.
        make: make the result within a Prefect flow and record its run.
        usable: whether a result that is found may serve at all.
        reuse: complete a result that was found.
        follow: update events and aliases; called with whether this result is published first now.
    """
    found = results.find(session, kind, key) if usable else None
    if found is not None:
        result = reuse(found)
    else:
        flow = "profile-data" if kind == names.PROFILE else results.KINDS[kind].command
        scope = session.config.dataset if kind == names.PROFILE else session.config.experiment
        title = f"{results.KINDS[kind].command} · {scope}"
        result = session.orchestrator.flow(flow, make, parameters=session.parameters, title=title)
    publication.publish(session, result, lambda first: follow(result, first))
    return result
