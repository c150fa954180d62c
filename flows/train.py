"""Flow 2, for the data scientist."""

from __future__ import annotations

from typing import Any

from prefect import flow

from minivess.contracts import CellOrder
from minivess.grid import worker
from minivess.orchestration.forms import asks
from minivess.orchestration.session import deployed_session
from minivess.stages import train as stage


@flow(name="train", persist_result=False)
@asks("train")
def train(
    settings: tuple[str, ...] = (), files: tuple[str, ...] = (), upstream: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Train the grid on the latest profile, or on the profile run given as `upstream`.

    Leaves a parent run for each configuration (model, loss, seed) and a child run for each fold.
    """
    with deployed_session(settings, files) as session:
        return stage.outcome(session, stage.train(session, session.full_ids(upstream)))


@flow(name="train-cell", persist_result=False)
def train_cell(order: dict[str, Any]) -> None:
    """Train one fold of one configuration for a coordinator, which reads the result from MLflow."""
    worker.run(CellOrder.model_validate(order))
