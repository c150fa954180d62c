"""One cell of the grid, from its first step to its result; killed anywhere, it ends the same.

Randomness is a function of (seed, epoch, step), so a checkpoint holds no random state: a resumed
cell repeats the epoch that was in flight and comes to the same bits. Epochs count from 0.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from monai.data.meta_obj import get_track_meta, set_track_meta

from minivess import losses, names, networks
from minivess.compute import recovery
from minivess.config import ExperimentConfig
from minivess.contracts import Case, CellResult, CellSpec, ComputePlan
from minivess.errors import OutOfMemory
from minivess.training import cell, checkpoint, epochs, figures, guard, loaders
from minivess.training.cell import complete
from minivess.training.state import State
from minivess.training.validation import SHOWN, Judgement, Validation

__all__ = ["OutOfMemory", "complete", "train_cell"]

log = logging.getLogger(__name__)
OnEpoch = Callable[[int, dict[str, float]], None]
OnFigure = Callable[[Path], None]
# Metric -> checkpoint and direction; the first one that was ever defined is judged in the end.
# Where nothing validates none is, and the final weights are kept.
BEST = {f"val_{names.PRIMARY}": (names.BEST_PRIMARY, 1), "val_loss": (names.BEST_LOSS, -1)}


def train_cell(
    spec: CellSpec,
    plan: ComputePlan,
    config: ExperimentConfig,
    cases: Mapping[str, Case],
    *,
    folder: Path,
    on_epoch: OnEpoch,
    on_figure: OnFigure,
    resume: bool = True,
) -> CellResult:
    """Train one cell in its folder, or go on where a killed process left it.

    `on_epoch` gets the metrics of each epoch once they are safe on disk; a resumed or finished
    cell reports all its epochs again. `on_figure` gets each image drawn. A stored plan wins
    over `plan`.

    Raises:
        OutOfMemory: the plan takes more than there is.
        TrainingError: the loss is not finite; the volumes of the batch are named.
        DataError, PlanError: a volume or a batch that does not suit this fold or plan.
    """
    finished = complete(folder, spec.key) if resume else None
    if finished is not None:
        _report_again(cell.read_history(folder), folder, on_epoch, on_figure)
        return finished
    plan = cell.open_cell(folder, spec, plan, resume=resume)
    with _machine(plan), recovery.typed(spec.network, plan):
        session = _session(spec, plan, config, cases, folder=folder)
        guard.first_of_each(session.steps.batches, session.validation.volumes, spec, plan)
        state = State.start(spec, plan, config.training)
        if not state.restore(checkpoint.load(folder / names.LAST), spec.key):
            state.untrained = session.validation.run(state.judged, topology=True).means
        _report_again(state.history, folder, on_epoch, on_figure)
        while not session.over(state):
            on_epoch(state.epoch, _one_epoch(session, state, on_figure))
            state.epoch += 1
        return _finish(session, state, on_figure)


@dataclass(frozen=True)
class Session:
    """What stays the same while a cell trains."""

    spec: CellSpec
    plan: ComputePlan
    config: ExperimentConfig
    folder: Path
    steps: epochs.Steps
    validation: Validation

    def over(self, state: State) -> bool:
        """Whether no epoch is left, or too many have passed without a better loss."""
        return state.epoch >= self.config.training.max_epochs or self.patience_is_over(state)

    def patience_is_over(self, state: State) -> bool:
        """Whether early stopping ends the training before epoch `state.epoch`."""
        patience = self.config.training.early_stopping_patience
        best = state.best.get("val_loss", {"epoch": -1})
        return bool(patience) and state.epoch - 1 - best["epoch"] >= patience


def _session(
    spec: CellSpec,
    plan: ComputePlan,
    config: ExperimentConfig,
    cases: Mapping[str, Case],
    *,
    folder: Path,
) -> Session:
    loss = losses.build(spec.loss, spec.network.out_channels).to(plan.device)
    train = loaders.training_volumes(spec, plan, config, cases)
    val = loaders.validation_volumes(spec, plan, config, cases)
    batches = loaders.Batches(train, plan, config.training, spec.seed)
    return Session(
        spec=spec,
        plan=plan,
        config=config,
        folder=folder,
        steps=epochs.Steps(spec, plan, config.training, batches=batches, loss=loss),
        validation=Validation(spec, plan, config.evaluation, volumes=val, loss=loss),
    )


@contextmanager
def _machine(plan: ComputePlan) -> Iterator[None]:
    """Threads and kernels as planned, and as they were afterwards.

    Another number of threads adds up in another order and gives other bits.
    """
    threads, tracked = torch.get_num_threads(), get_track_meta()
    cudnn = torch.backends.cudnn
    kernels = cudnn.deterministic, cudnn.benchmark
    torch.set_num_threads(plan.threads)
    set_track_meta(False)  # plain tensors: patches need no affine, and collating metadata costs
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        set_track_meta(tracked)
        cudnn.deterministic, cudnn.benchmark = kernels


def _one_epoch(session: Session, state: State, on_figure: OnFigure) -> dict[str, float]:
    """Train, validate, draw, keep; what is returned is safe on disk."""
    started = time.perf_counter()
    metrics = session.steps.run(state)
    judgement = _validate(session, state)
    metrics |= judgement.logged()
    if judgement.panels:
        title = f"after epoch {state.epoch}"
        path = session.folder / cell.PREDICTIONS / f"epoch_{state.epoch:04d}.png"
        _draw(lambda: figures.predictions(path, judgement.panels, title), on_figure)
    seconds = time.perf_counter() - started
    entry = {"epoch": state.epoch, "time": time.time(), "seconds": seconds, "metrics": metrics}
    state.history.append(entry)
    _keep(session, state, metrics)
    return metrics


def _validate(session: Session, state: State) -> Judgement:
    """Judge the epoch's weights; topology at intervals and at the last epoch, however it comes."""
    number, training = state.epoch + 1, session.config.training
    last = number == training.max_epochs
    topology = last or number % session.config.evaluation.interval_epochs == 0
    shown = SHOWN if last or number % training.figure_interval == 0 else 0
    judgement = session.validation.run(state.judged, topology=topology, shown=shown)
    if not topology and _stops_here(session, state, judgement.loss):
        judgement = session.validation.run(state.judged, topology=True, shown=SHOWN)
    return judgement


def _stops_here(session: Session, state: State, loss: float) -> bool:
    patience = session.config.training.early_stopping_patience
    best = state.best.get("val_loss", {"epoch": -1, "value": float("inf")})
    return bool(patience) and not loss < best["value"] and state.epoch - best["epoch"] >= patience


def _keep(session: Session, state: State, metrics: Mapping[str, float]) -> None:
    """Store better weights first, then the state that knows of them, then the readable history."""
    folder, key = session.folder, session.spec.key
    for metric, (name, sign) in BEST.items():
        if state.improves(metric, metrics.get(metric), sign):
            state.best[metric] = {"value": metrics[metric], "epoch": state.epoch}
            checkpoint.save(folder / name, state.weights(key))
    checkpoint.save(folder / names.LAST, state.stored(key), keep_previous=True)
    cell.write_history(folder, state.history)


def _finish(session: Session, state: State, on_figure: OnFigure) -> CellResult:
    """Judge the best weights, as read back from their file, and write the result last."""
    spec, folder = session.spec, session.folder
    metric = next((metric for metric in BEST if metric in state.best), None)
    name = BEST[metric][0] if metric else names.FINAL
    if metric is None:
        checkpoint.save(folder / name, state.weights(spec.key))
    network = networks.load(spec.network, folder / name).to(session.plan.device)
    judgement = session.validation.run(network, topology=True)
    cell.write_history(folder, state.history)
    _draw(lambda: figures.curves(folder / cell.CURVES, state.history), on_figure)
    checkpoint.previous(folder / names.LAST).unlink(missing_ok=True)
    result = CellResult(
        key=spec.key,
        best_epoch=state.best[metric]["epoch"] if metric else state.epoch - 1,
        epochs=len(state.history),
        stopped_early=len(state.history) < session.config.training.max_epochs,
        training_time_seconds=sum(entry["seconds"] for entry in state.history),
        trainable_parameters=networks.parameters(network),
        best={metric: kept["value"] for metric, kept in state.best.items()},
        untrained=state.untrained,
        volumes=judgement.volumes,
        checkpoint=name,
        files=cell.sizes(folder),
    )
    cell.write_result(folder, result)
    return result


def _report_again(
    history: cell.History, folder: Path, on_epoch: OnEpoch, on_figure: OnFigure
) -> None:
    for entry in history:
        on_epoch(entry["epoch"], entry["metrics"])
    for path in cell.figures(folder) if history else ():
        on_figure(path)


def _draw(draw: Callable[[], Path], on_figure: OnFigure) -> None:
    try:
        on_figure(draw())
    except Exception as error:  # noqa: BLE001 (no image is worth a training)
        log.warning("A figure could not be drawn, training goes on: %s", error)
