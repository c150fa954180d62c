"""New data, for a schedule."""

from __future__ import annotations

from typing import Any

from prefect import flow

from minivess.orchestration.session import deployed_session
from minivess.stages import watch


@flow(name="watch-data", persist_result=False)
def watch_data(settings: tuple[str, ...] = (), files: tuple[str, ...] = ()) -> dict[str, Any]:
    """Look at `data.root` once, and announce what is not profiled yet as an event."""
    with deployed_session(settings, files, lock=False) as session:
        return watch.data_changed(session)
