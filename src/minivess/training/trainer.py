"""Train one cell of the grid, resumable at any point with identical results.

Randomness is a function of (seed, epoch, step), so a checkpoint holds no random state: a resumed
cell repeats the epoch that was in flight and comes to the same bits. Epochs count from 0.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from minivess import names, networks
from minivess.compute import out_of_memory
from minivess.config import ExperimentConfig
from minivess.contracts import Case, CellResult, CellSpec, ComputePlan
from minivess.errors import OutOfMemory
from minivess.training import (
    batch_checks,
    cell_folder,
    checkpoint,
    deferred_validation,
    distributed,
    epochs,
    loaders,
)
from minivess.training.cell_folder import complete
from minivess.training.context import Callbacks, TrainingContext, machine, opened
from minivess.training.deferred_validation import BEST, CompleteEpoch
from minivess.training.monitoring import figures
from minivess.training.monitoring.timing import JUDGING, PREDICTING, STEPPING, shares, total
from minivess.training.monitoring.watchdog import Heartbeat
from minivess.training.state import State

__all__ = ["Callbacks", "OutOfMemory", "complete", "train_cell"]


def train_cell(
    spec: CellSpec,
    plan: ComputePlan,
    config: ExperimentConfig,
    cases: Mapping[str, Case],
    *,
    folder: Path,
    callbacks: Callbacks,
    resume: bool = True,
    labels: Path | None = None,
) -> CellResult:
    """Train one cell in its folder, or go on where a killed process left it.

    `callbacks.epoch` gets the metrics of each epoch once they are safe on disk, `callbacks.figure`
    each image; a resumed or finished cell tells all of them again. A stored plan wins over `plan`.
    Skeletons and surfaces of labels are kept in `labels` for other cells.

    Raises:
        OutOfMemory: the plan takes more than there is.
        TrainingError: the loss is not finite; the volumes of the batch are named.
        DataError, PlanError: a volume or a batch that does not suit this fold or plan.
    """
    finished = complete(folder, spec.key) if resume else None
    if finished is not None:
        _repeat(callbacks, cell_folder.read_history(folder), folder)
        return finished
    plan = cell_folder.open_cell(folder, spec, plan, resume=resume)
    with (
        out_of_memory.typed(spec.network, plan),
        opened(
            spec, plan, config, cases, folder=folder, labels=labels, callbacks=callbacks
        ) as context,
    ):
        batch_checks.first_of_each(context.steps.batches, context.validation.volumes, spec, plan)
        state = State.start(spec, plan, config.training, folder)
        complete_last = _begin(context, state)
        distributed.require_shareable(state.network, plan.batch_size)
        distributed.broadcast((spec, plan, config, cases, folder, state.epoch))
        while not context.over(state):
            distributed.broadcast(state.epoch)
            complete_last = _one_epoch(context, state, complete_last)
            state.epoch += 1
        distributed.broadcast(None)
        complete_last()
        return _finish(context, state)


def assist() -> None:
    """Take part in the steps of each cell that the first process trains, until it is done."""
    while (job := distributed.receive()) is not None:
        spec, plan, config, cases, folder, epoch = job
        with machine(plan):
            # The first process watches over the training; the others wait while it judges.
            batches = loaders.Batches.of(spec, plan, config, cases)
            steps = epochs.Steps.of(spec, batches, Heartbeat.silent())
            state = State.start(spec, plan, config.training, folder)
            if epoch:
                state.restore(checkpoint.load(folder / names.LAST), spec.key)
            while (epoch := distributed.receive()) is not None:
                state.epoch = epoch
                steps.run(state)


def _begin(context: TrainingContext, state: State) -> CompleteEpoch:
    """Take over what was stored, else let the untrained network be judged beside epoch 0."""
    if state.restore(checkpoint.load(context.folder / names.LAST), context.spec.key):
        context.callbacks.resumed(state.epoch + 1)
        _repeat(context.callbacks, state.history[: -1 if state.unsettled else None], context.folder)
        if state.unsettled:
            entry = state.history[-1]
            deferred_validation.complete_epoch(
                context, state, entry, deferred_validation.judge(context, state, entry)
            )
        state.epoch += 1
        return deferred_validation.nothing_left
    judging = context.validation.run(state.judged, topology=True, reported=True)

    def complete() -> None:
        state.untrained = judging.wait().means

    return complete


def _one_epoch(
    context: TrainingContext, state: State, complete_last: CompleteEpoch
) -> CompleteEpoch:
    """Train, complete the epoch before, judge, keep; return what completes this one."""
    started, clock = time.perf_counter(), context.clock
    context.begin(state)
    with clock.on(STEPPING):
        metrics = context.steps.run(state)
    complete_last()
    entry = {"epoch": state.epoch, "metrics": metrics}
    state.history.append(entry)
    waiting = deferred_validation.judge(context, state, entry)
    entry["spent"] = context.lap({})
    entry["time"], entry["seconds"] = time.time(), time.perf_counter() - started
    return deferred_validation.keep(context, state, entry, waiting)


def _finish(context: TrainingContext, state: State) -> CellResult:
    """Judge the last or the best weights, as read back from their file; write the result last."""
    spec, folder, last = context.spec, context.folder, state.history[-1]
    state.epoch = last["epoch"]
    ranked = BEST if context.config.training.judged_epoch == "best" else ()
    metric = next((metric for metric in ranked if metric in state.best), None)
    name = BEST[metric][0] if metric else names.FINAL
    if metric is None:
        checkpoint.save(folder / name, state.weights(spec.key))
    network = networks.load(spec.network, folder / name).to(context.plan.device)
    with context.clock.on(PREDICTING):
        judging = context.validation.run(network, topology=True, reported=True, whole=True)
    with context.clock.on(JUDGING):
        judgement = judging.wait()
    drawn = context.judges.submit(figures.curves, folder / cell_folder.CURVES, state.history)
    deferred_validation.shown(drawn, context.callbacks.figure)
    last["spent"] = context.lap(last["spent"])
    deferred_validation.store(context, state)
    checkpoint.previous(folder / names.LAST).unlink(missing_ok=True)
    result = CellResult(
        key=spec.key,
        judged_epoch=state.best[metric]["epoch"] if metric else state.epoch,
        epochs=len(state.history),
        stopped_early=len(state.history) < context.config.training.max_epochs,
        training_time_seconds=total(state.history),
        time_shares=shares(state.history),
        trainable_parameters=networks.parameters(network),
        best={metric: kept["value"] for metric, kept in state.best.items()},
        untrained=state.untrained,
        volumes=judgement.volumes,
        checkpoint=name,
        files=cell_folder.sizes(folder),
    )
    cell_folder.write_result(folder, result)
    return result


def _repeat(callbacks: Callbacks, history: cell_folder.History, folder: Path) -> None:
    for entry in history:
        callbacks.epoch(entry["epoch"], entry["metrics"], None)
    for path in cell_folder.figures(folder) if history else ():
        callbacks.figure(path)
