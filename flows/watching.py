"""New data: noticed by polling or told by a hook, and announced as an event.

An event starts flow 1 through an automation (deployments/prefect.yaml). Events may arrive twice;
the flow looks its key up under the home's lock, so that one version of the data gets one run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from flows import orchestrator, servers
from flows.profile_data import look
from flows.session import Session
from minivess import config as configs
from minivess import names
from minivess.errors import MinivessError, OrchestrationError

SETTLE_S = 2.0  # files that are still being copied change within this time


def data_changed(session: Session) -> dict[str, Any]:
    """Announce the data once, unless a profile of exactly these files exists.

    Raises:
        OrchestrationError: no Prefect server listens.
    """
    key = look(session).key
    record = session.store.find(key, experiment=names.PROFILE_EXPERIMENT)
    if record is not None:
        session.say(f"  nothing new: profile {record.run_id} is of exactly these files")
        return {"emitted": False, "data_profile_run_id": record.run_id}
    announce(session, key)
    return {"emitted": True, "event": names.DATA_CHANGED}


def watch(
    session: Session,
    *,
    rounds: int | None = None,
    sleep: Callable[[float], object] = time.sleep,
) -> dict[str, Any]:
    """Look at the data every `data.watch_interval_s` and announce each new state once."""
    every = session.config.data.watch_interval_s
    session.say(
        f"Watching  {session.config.data.root or 'the demo data'} every {every:g} s; Ctrl-C"
    )
    announced: list[str] = []
    done = 0
    while rounds is None or done < rounds:
        if done:
            sleep(every)
        done += 1
        try:
            key = settled(session, sleep)
            known = session.store.find(key, experiment=names.PROFILE_EXPERIMENT)
            if known is None and key not in announced[-1:]:
                announce(session, key)
                announced.append(key)
        except MinivessError as error:
            # Folders come and go, servers restart: the next look may succeed.
            session.say(f"  {error}")
    return {"announced": len(announced)}


def settled(session: Session, sleep: Callable[[float], object]) -> str:
    """The key of the data once two looks agree; a known key is taken at once."""
    key = look(session).key
    while session.store.find(key, experiment=names.PROFILE_EXPERIMENT) is None:
        sleep(SETTLE_S)
        again = look(session).key
        if again == key:
            break
        key = again
    return key


def announce(session: Session, key: str) -> None:
    """Send the event, and stay until it is sent.

    Raises:
        OrchestrationError: no Prefect server listens.
    """
    env, home = session.env, session.home
    folder = servers.folder_of(home, env)
    if env.prefect_disabled or (not env.prefect_api_url and servers.running(folder) is None):
        raise OrchestrationError(
            "No Prefect server runs that could hear about new data.",
            remedy="start `minivess ui`, or set PREFECT_API_URL=http://host:4200/api",
        )
    dataset = session.config.dataset
    with orchestrator.use(home, env) as orchestra:
        orchestra.emit(
            names.DATA_CHANGED,
            f"minivess.dataset.{dataset}",
            {"dataset": dataset, "key": key, "settings": configs.words(session.config)},
        )
    session.say(f"  new data in {dataset}: {names.DATA_CHANGED} sent")
