"""What an epoch leaves to threads, metrics of topology and figures, and how it is settled.

Training goes on meanwhile. An unsettled epoch is on disk as such, so a cell that is killed before
it is settled judges the stored weights again and comes to the same values and checkpoints.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import NamedTuple

from minivess import names
from minivess.training import cell_folder, checkpoint
from minivess.training.context import OnFigure, Session
from minivess.training.monitoring import figures
from minivess.training.monitoring.timing import DRAWING, JUDGING, PREDICTING, REPORTING, SAVING
from minivess.training.state import State
from minivess.training.validation import SHOWN, Judging

log = logging.getLogger(__name__)
Settle = Callable[[], None]
PRIMARY = f"val_{names.PRIMARY}"
LOSS = "val_loss"
# Metric -> checkpoint and direction. training.judged_epoch=best judges the first one that was
# ever defined.
BEST = {PRIMARY: (names.BEST_PRIMARY, 1), LOSS: (names.BEST_LOSS, -1)}


class Waiting(NamedTuple):
    """What threads still work on after an epoch, and a copy of its weights where they count."""

    judging: Judging
    figure: Future[Path] | None
    weights: checkpoint.State | None

    @property
    def late(self) -> bool:
        """Whether the next epoch begins before this is done."""
        return self.figure is not None or self.weights is not None


def judge(session: Session, state: State, entry: cell_folder.Entry) -> Waiting:
    """Let the network that `state` holds be judged; the loss is in `entry` at once."""
    judging, topology = _validate(session, state)
    entry["metrics"] |= judging.logged_loss
    figure = None
    if judging.panels:
        path = session.folder / cell_folder.PREDICTIONS / f"epoch_{state.epoch:04d}.png"
        title = f"after epoch {state.epoch}"
        figure = session.judges.submit(figures.predictions, path, judging.panels, title)
    weights = state.weights(session.spec.key, copied=True) if topology else None
    return Waiting(judging, figure, weights)


def keep(session: Session, state: State, entry: cell_folder.Entry, waiting: Waiting) -> Settle:
    """Put the epoch on disk and report it; where it is late, the returned call settles it."""
    state.unsettled = waiting.late
    if not waiting.late:
        _complete(session, entry, waiting)
    with session.clock.on(SAVING):
        keep_best(session, state, LOSS, entry, state.weights(session.spec.key))
        store(session, state)
    session.pulse.tick("save")
    if waiting.late:
        return partial(settle, session, state, entry, waiting)
    _report(session, state, entry)
    return nothing


def settle(session: Session, state: State, entry: cell_folder.Entry, waiting: Waiting) -> None:
    """Complete an epoch's metrics, keep its weights if they are the best, report it."""
    _complete(session, entry, waiting)
    state.unsettled = False
    if waiting.weights is not None:
        with session.clock.on(SAVING):
            keep_best(session, state, PRIMARY, entry, waiting.weights)
    if waiting.figure is not None:
        with session.clock.on(DRAWING):
            shown(waiting.figure, session.tell.figure)
    _report(session, state, entry)


def store(session: Session, state: State) -> None:
    """Write the checkpoint to go on from, then the history that people read."""
    stored = state.stored(session.spec.key)
    checkpoint.save(session.folder / names.LAST, stored, keep_previous=True)
    cell_folder.write_history(session.folder, state.history)


def nothing() -> None:
    """Nothing is left to settle."""


def keep_best(
    session: Session, state: State, metric: str, entry: cell_folder.Entry, weights: checkpoint.State
) -> None:
    """Store the epoch's weights if its metric is the best so far."""
    name, sign = BEST[metric]
    value = entry["metrics"].get(metric)
    if state.improves(metric, value, sign):
        state.best[metric] = {"value": value, "epoch": entry["epoch"]}
        checkpoint.save(session.folder / name, weights)


def shown(drawn: Future[Path], on_figure: OnFigure) -> None:
    """Hand over an image; one that failed warns and stops nothing."""
    try:
        on_figure(drawn.result())
    except Exception as error:  # noqa: BLE001 (no image is worth a training)
        log.warning("A figure could not be drawn, training goes on: %s", error)


def _validate(session: Session, state: State) -> tuple[Judging, bool]:
    """Topology is judged at intervals and at the last epoch, however it comes."""
    number, training = state.epoch + 1, session.config.training
    last = number == training.max_epochs
    topology = last or number % session.config.evaluation.interval_epochs == 0
    images = SHOWN if last or number % training.figure_interval == 0 else 0
    with session.clock.on(PREDICTING):
        judging = session.validation.run(state.judged, topology=topology, shown=images)
        if not topology and session.stops_here(state, judging.loss):
            topology = True
            judging = session.validation.run(state.judged, topology=True, shown=SHOWN)
    return judging, topology


def _complete(session: Session, entry: cell_folder.Entry, waiting: Waiting) -> None:
    with session.clock.on(JUDGING):
        entry["metrics"] |= waiting.judging.wait().logged()
    session.pulse.tick("judging")


def _report(session: Session, state: State, entry: cell_folder.Entry) -> None:
    with session.clock.on(REPORTING):
        session.tell.epoch(entry["epoch"], entry["metrics"], session.left_s(state))
    session.pulse.tick("report")
