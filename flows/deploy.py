"""Flow 4, for the platform engineer."""

from __future__ import annotations

from typing import Any

from prefect import flow

from minivess.orchestration.forms import asks
from minivess.orchestration.session import deployed_session
from minivess.stages import deploy as stage


@flow(name="deploy", persist_result=False)
@asks("deploy")
def deploy(
    settings: tuple[str, ...] = (), files: tuple[str, ...] = (), upstream: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Export, check and serve the champion of the latest analysis, or of the one given.

    Leaves a deployment run, a model version with the alias `production`, and a BentoML service.
    """
    with deployed_session(settings, files) as session:
        return stage.outcome(session, stage.deploy(session, session.full_ids(upstream)))
