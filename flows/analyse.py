"""Flow 3, for the research scientist."""

from __future__ import annotations

from typing import Any

from prefect import flow

from minivess.orchestration.forms import asks
from minivess.orchestration.session import deployed_session
from minivess.stages import analyse as stage


@flow(name="analyse", persist_result=False)
@asks("analyse")
def analyse(
    settings: tuple[str, ...] = (), files: tuple[str, ...] = (), upstream: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Judge the latest training runs, or those given as `upstream`, and choose the champion.

    Leaves an analysis run with metrics, intervals and the report.
    """
    with deployed_session(settings, files) as session:
        return stage.outcome(session, stage.analyse(session, session.full_ids(upstream)))
