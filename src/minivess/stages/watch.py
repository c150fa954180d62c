"""Detect new data, by polling or from a hook, and announce them as a Prefect event.

An event starts flow 1 through an automation (deployments/prefect.yaml). Events may arrive twice;
the flow searches for its key under the home's lock, so that one version of the data gets one run.
"""

from __future__ import annotations

import time
from typing import Any

from minivess import config as configs
from minivess import names
from minivess.contracts import RunRecord
from minivess.errors import MinivessError
from minivess.orchestration import prefect_server
from minivess.orchestration.session import Session, open_orchestrator
from minivess.stages.dataset_scan import scan_dataset

SETTLE_S = 2.0
"""Files that are still being copied change within this time."""


def data_changed(session: Session) -> dict[str, Any]:
    """Announce the data once, unless a profile of exactly these files exists.

    Raises:
        OrchestrationError: no Prefect server listens.
    """
    key = scan_dataset(session).key
    record = profile_of(session, key)
    if record is not None:
        session.print(f"  nothing new: profile {record.run_id} is of exactly these files")
        return {"emitted": False, "data_profile_run_id": record.run_id}
    announce(session, key)
    return {"emitted": True, "event": names.DATA_CHANGED}


def watch(session: Session) -> dict[str, Any]:
    """Scan the data every `data.watch_interval_s` until Ctrl-C; announce each state once."""
    every = session.config.data.watch_interval_s
    session.print(
        f"Watching  {session.config.data.root or 'the demo data'} every {every:g} s; Ctrl-C"
    )
    announced = None
    while True:
        try:
            announced = announce_new(session, announced)
        except MinivessError as error:
            # Folders come and go, servers restart: the next scan may succeed.
            session.print(f"  {error}")
        time.sleep(every)


def announce_new(session: Session, announced: str | None) -> str | None:
    """Announce data that are neither profiled nor announced; returns the key announced last.

    Data that still change are left for the next scan.
    """
    key = scan_dataset(session).key
    if key == announced or profile_of(session, key) is not None:
        return announced
    time.sleep(SETTLE_S)
    if scan_dataset(session).key != key:
        return announced
    announce(session, key)
    return key


def profile_of(session: Session, key: str) -> RunRecord | None:
    """The finished profile of exactly these files, decisions and settings."""
    return session.store.find(key, experiment=names.PROFILE_EXPERIMENT)


def announce(session: Session, key: str) -> None:
    """Send the event and wait until it is sent.

    Raises:
        OrchestrationError: no Prefect server listens.
    """
    prefect_server.require(session.home, session.env, "An event")
    dataset = session.config.dataset
    with open_orchestrator(session.home, session.env) as orchestrator:
        orchestrator.emit(
            names.DATA_CHANGED,
            f"minivess.dataset.{dataset}",
            {"dataset": dataset, "key": key, "settings": configs.overrides(session.config)},
        )
    session.print(f"  new data in {dataset}: {names.DATA_CHANGED} sent")
