"""Weights of a former training from which cells begin: `training.init`."""

from __future__ import annotations

import re
from pathlib import Path

from minivess import files, networks
from minivess.contracts import Network
from minivess.errors import StoreError
from minivess.orchestration.session import Session
from minivess.tracking.store import registry

PINNED = re.compile(r"([0-9a-f]{32}):([0-9a-f]{64})")


def pin(session: Session) -> Session:
    """The session with `training.init` as RUN:HASH, so that content decides keys.

    Raises:
        StoreError: no such run or model, or a run that holds none.
    """
    ref = session.config.training.init
    if ref is None or PINNED.fullmatch(ref):
        return session
    from minivess.tracking.run import model

    run_id = registry.of_reference(session.store, *session.full_ids([ref])).run_id
    pinned = f"{run_id}:{files.sha256(model.fetch(session.store, run_id)[2])}"
    session.print(f"  weights begin as those of run {run_id}, given as training.init={ref}")
    training = session.config.training.model_copy(update={"init": pinned})
    return session.with_config(session.config.model_copy(update={"training": training}))


def upstream(session: Session) -> str | None:
    """The run whose weights are taken, if any are."""
    ref = session.config.training.init
    return ref and ref.partition(":")[0]


def fetch(session: Session, network: Network) -> Path | None:
    """The file of weights, whose shapes are those of `network`; None where none are taken.

    Raises:
        StoreError: the run holds other weights by now.
        PlanError: weights of other shapes.
    """
    ref = session.config.training.init
    if ref is None:
        return None
    from minivess.tracking.run import model

    run_id, _, expected = ref.partition(":")
    weights = model.fetch(session.store, run_id)[2]
    if files.sha256(weights) != expected:
        raise StoreError(
            f"The model of run {run_id} holds other weights than when training.init={ref} was "
            "written.",
            remedy=f"training.init={run_id}, which takes those of today",
        )
    networks.require_shapes(network, weights, f"training.init={run_id}")
    return weights
