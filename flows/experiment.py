"""All four flows in order."""

from __future__ import annotations

from typing import Any

from prefect import flow

from minivess.orchestration.forms import asks
from minivess.orchestration.session import deployed_session
from minivess.stages import experiment as stage


@flow(name="experiment", persist_result=False)
@asks("experiment")
def experiment(settings: tuple[str, ...] = (), files: tuple[str, ...] = ()) -> dict[str, Any]:
    """Profile, train, analyse and deploy; reuse what is finished already."""
    with deployed_session(settings, files) as session:
        return stage.experiment(session)
