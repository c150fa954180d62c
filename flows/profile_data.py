"""Flow 1, for the data engineer."""

from __future__ import annotations

from typing import Any

from prefect import flow

from minivess.orchestration.forms import asks
from minivess.orchestration.session import deployed_session
from minivess.stages import profile


@flow(name="profile-data", persist_result=False)
@asks("profile")
def profile_data(settings: tuple[str, ...] = (), files: tuple[str, ...] = ()) -> dict[str, Any]:
    """Pair, check, measure and version the volumes of `data.root`.

    Leaves a profile run in MLflow and the dataset under DVC; announces the run as an event.
    """
    with deployed_session(settings, files) as session:
        return profile.outcome(session, profile.profile_data(session))
