"""Topology metrics and figures computed in threads while the next epoch trains.

An epoch whose metrics are incomplete is marked so on disk. A cell that is killed before they are
complete evaluates the stored weights again, with the same values and checkpoints.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import NamedTuple

from minivess import names
from minivess.training import cell_folder, checkpoint
from minivess.training.context import OnFigure, TrainingContext
from minivess.training.monitoring import figures
from minivess.training.monitoring.timing import DRAWING, JUDGING, PREDICTING, REPORTING, SAVING
from minivess.training.state import State
from minivess.training.validation import SHOWN, Judging

log = logging.getLogger(__name__)
CompleteEpoch = Callable[[], None]
PRIMARY = f"val_{names.PRIMARY}"
LOSS = "val_loss"
# Metric -> checkpoint and direction. training.judged_epoch=best judges the first one that was
# ever defined.
BEST = {PRIMARY: (names.BEST_PRIMARY, 1), LOSS: (names.BEST_LOSS, -1)}


class PendingEpoch(NamedTuple):
    """What threads still work on after an epoch, and a copy of its weights where they count."""

    judging: Judging
    figure: Future[Path] | None
    weights: checkpoint.Stored | None

    @property
    def late(self) -> bool:
        """Whether the next epoch begins before this is done."""
        return self.figure is not None or self.weights is not None


def judge(context: TrainingContext, state: State, entry: cell_folder.Entry) -> PendingEpoch:
    """Let the network that `state` holds be judged; the loss is in `entry` at once.

    An epoch that is not judged has no `val_` metrics.
    """
    if not context.judges_after(state.epoch):
        return PendingEpoch(Judging(math.nan, [], []), None, None)
    judging, topology = _validate(context, state)
    entry["metrics"] |= judging.logged_loss
    figure = None
    if judging.panels:
        path = context.folder / cell_folder.PREDICTIONS / f"epoch_{state.epoch:04d}.png"
        title = f"after epoch {state.epoch}"
        figure = context.judges.submit(figures.predictions, path, judging.panels, title)
    weights = state.weights(context.spec.key, copied=True) if topology else None
    return PendingEpoch(judging, figure, weights)


def keep(
    context: TrainingContext, state: State, entry: cell_folder.Entry, pending: PendingEpoch
) -> CompleteEpoch:
    """Put the epoch on disk and report it; where it is late, the returned call completes it."""
    state.unsettled = pending.late
    if not pending.late:
        _complete(context, entry, pending)
    with context.clock.on(SAVING):
        keep_best(context, state, LOSS, entry, state.weights(context.spec.key))
        store(context, state)
    context.heartbeat.tick("save")
    if pending.late:
        return partial(complete_epoch, context, state, entry, pending)
    _report(context, state, entry)
    return nothing_left


def complete_epoch(
    context: TrainingContext, state: State, entry: cell_folder.Entry, pending: PendingEpoch
) -> None:
    """Complete an epoch's metrics, keep its weights if they are the best, report it."""
    _complete(context, entry, pending)
    state.unsettled = False
    if pending.weights is not None:
        with context.clock.on(SAVING):
            keep_best(context, state, PRIMARY, entry, pending.weights)
    if pending.figure is not None:
        with context.clock.on(DRAWING):
            shown(pending.figure, context.callbacks.figure)
    _report(context, state, entry)


def store(context: TrainingContext, state: State) -> None:
    """Write the checkpoint to go on from, then the history that people read."""
    stored = state.stored(context.spec.key)
    checkpoint.save(context.folder / names.LAST, stored, keep_previous=True)
    cell_folder.write_history(context.folder, state.history)


def nothing_left() -> None:
    """Do nothing_left: the epoch is complete."""


def keep_best(
    context: TrainingContext,
    state: State,
    metric: str,
    entry: cell_folder.Entry,
    weights: checkpoint.Stored,
) -> None:
    """Store the epoch's weights if its metric is the best so far."""
    name, sign = BEST[metric]
    value = entry["metrics"].get(metric)
    if state.improves(metric, value, sign):
        state.best[metric] = {"value": value, "epoch": entry["epoch"]}
        checkpoint.save(context.folder / name, weights)


def shown(drawn: Future[Path], on_figure: OnFigure) -> None:
    """Hand over an image; one that failed warns and stops nothing_left."""
    try:
        on_figure(drawn.result())
    except Exception as error:  # noqa: BLE001 (no image is worth a training)
        log.warning("A figure could not be drawn, training goes on: %s", error)


def _validate(context: TrainingContext, state: State) -> tuple[Judging, bool]:
    """Topology is judged at intervals and at the last epoch, however it comes."""
    config = context.config
    topology = context.is_due(state.epoch, config.evaluation.interval_epochs)
    images = SHOWN if context.is_due(state.epoch, config.training.figure_interval) else 0
    with context.clock.on(PREDICTING):
        judging = context.validation.run(state.judged, topology=topology, shown=images)
        if not topology and context.stops_here(state, judging.loss):
            topology = True
            judging = context.validation.run(state.judged, topology=True, shown=SHOWN)
    return judging, topology


def _complete(context: TrainingContext, entry: cell_folder.Entry, pending: PendingEpoch) -> None:
    with context.clock.on(JUDGING):
        entry["metrics"] |= pending.judging.wait().logged()
    context.heartbeat.tick("judging")


def _report(context: TrainingContext, state: State, entry: cell_folder.Entry) -> None:
    with context.clock.on(REPORTING):
        context.callbacks.epoch(entry["epoch"], entry["metrics"], context.left_s(state))
    context.heartbeat.tick("report")
