"""Slots of a Prefect limit that several hosts share, for cells on a work pool.

Locks of GPUs hold on one host. A slot whose holder died is free after `LEASE_S`, and a server that
is started again knows no slot: that stops new cells, never one that trains.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from minivess.errors import OrchestrationError
from minivess.orchestration import prefect_client

LEASE_S = 60
log = logging.getLogger(__name__)


@contextmanager
def held(limit: str | None, *, what: str) -> Iterator[None]:
    """Hold a slot of a limit for the length of a block, within a flow run; None asks for nothing.

    Raises:
        OrchestrationError: the server knows no such limit.
    """
    if limit is None:
        yield
        return
    from prefect.concurrency.sync import concurrency

    if _is_full(limit):
        log.info("%s waits for a free slot of %s", what, limit)
    slot = concurrency(
        limit, lease_duration=LEASE_S, strict=True, raise_on_lease_renewal_failure=False
    )
    with slot:
        log.info("%s has a slot of %s", what, limit)
        yield


def _is_full(limit: str) -> bool:
    from prefect.exceptions import ObjectNotFound

    with prefect_client.asking() as client:
        try:
            found = client.read_global_concurrency_limit_by_name(limit)
        except ObjectNotFound as error:
            raise OrchestrationError(
                f"Prefect knows no limit training.slots={limit}.",
                remedy=f"prefect gcl create {limit} --limit NUMBER_OF_GPUS, or without "
                "training.slots",
            ) from error
    return found.active_slots >= found.limit
