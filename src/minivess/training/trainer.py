"""One cell of the grid, from its first step to its result; killed anywhere, it ends the same.

Randomness is a function of (seed, epoch, step), so a checkpoint holds no random state: a resumed
cell repeats the epoch that was in flight and comes to the same bits. Epochs count from 0.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from minivess import losses, names, networks
from minivess.compute import out_of_memory
from minivess.config import ExperimentConfig
from minivess.contracts import Case, CellResult, CellSpec, ComputePlan
from minivess.errors import OutOfMemory
from minivess.training import (
    batch_checks,
    cell_folder,
    checkpoint,
    context,
    deferred_validation,
    distributed,
    epochs,
    loaders,
)
from minivess.training.cell_folder import complete
from minivess.training.context import Callbacks, Session
from minivess.training.deferred_validation import BEST, Settle
from minivess.training.monitoring import figures
from minivess.training.monitoring.timing import JUDGING, PREDICTING, STEPPING, shares
from minivess.training.monitoring.watchdog import Pulse
from minivess.training.state import State

__all__ = ["Callbacks", "OutOfMemory", "complete", "train_cell"]


def train_cell(
    spec: CellSpec,
    plan: ComputePlan,
    config: ExperimentConfig,
    cases: Mapping[str, Case],
    *,
    folder: Path,
    tell: Callbacks,
    resume: bool = True,
    labels: Path | None = None,
) -> CellResult:
    """Train one cell in its folder, or go on where a killed process left it.

    `tell.epoch` gets the metrics of each epoch once they are safe on disk, `tell.figure` each
    image; a resumed or finished cell tells all of them again. A stored plan wins over `plan`.
    Skeletons and surfaces of labels are kept in `labels` for other cells.

    Raises:
        OutOfMemory: the plan takes more than there is.
        TrainingError: the loss is not finite; the volumes of the batch are named.
        DataError, PlanError: a volume or a batch that does not suit this fold or plan.
    """
    finished = complete(folder, spec.key) if resume else None
    if finished is not None:
        _tell_again(tell, cell_folder.read_history(folder), folder)
        return finished
    plan = cell_folder.open_cell(folder, spec, plan, resume=resume)
    with (
        out_of_memory.typed(spec.network, plan),
        context.opened(
            spec, plan, config, cases, folder=folder, labels=labels, tell=tell
        ) as session,
    ):
        batch_checks.first_of_each(session.steps.batches, session.validation.volumes, spec, plan)
        state = State.start(spec, plan, config.training)
        settle = _begin(session, state)
        distributed.refuse(state.network, plan.batch_size)
        distributed.tell((spec, plan, config, cases, folder, state.epoch))
        while not session.over(state):
            distributed.tell(state.epoch)
            settle = _one_epoch(session, state, settle)
            state.epoch += 1
        distributed.tell(None)
        settle()
        return _finish(session, state)


def assist() -> None:
    """Take part in the steps of each cell that the first process trains, until it is done."""
    while (job := distributed.heard()) is not None:
        spec, plan, config, cases, folder, epoch = job
        with context.machine(plan):
            # The first process watches over the training; the others wait while it judges.
            steps = epochs.Steps(
                spec,
                plan,
                config.training,
                batches=loaders.Batches(
                    loaders.training_volumes(spec, plan, config, cases),
                    plan, config.training, spec.seed,
                ),
                loss=losses.build(
                    spec.loss, spec.network.out_channels, ignores=spec.ignores
                ).to(plan.device),
                pulse=Pulse.unheard(),
            )  # fmt: skip
            state = State.start(spec, plan, config.training)
            if epoch:
                state.restore(checkpoint.load(folder / names.LAST), spec.key)
            while (epoch := distributed.heard()) is not None:
                state.epoch = epoch
                steps.run(state)


def _begin(session: Session, state: State) -> Settle:
    """Take over what was stored, else let the untrained network be judged beside epoch 0."""
    if state.restore(checkpoint.load(session.folder / names.LAST), session.spec.key):
        session.tell.resumed(state.epoch + 1)
        _tell_again(session.tell, state.history[: -1 if state.unsettled else None], session.folder)
        if state.unsettled:
            entry = state.history[-1]
            deferred_validation.settle(
                session, state, entry, deferred_validation.judge(session, state, entry)
            )
        state.epoch += 1
        return deferred_validation.nothing
    judging = session.validation.run(state.judged, topology=True, reported=True)

    def settle() -> None:
        state.untrained = judging.wait().means

    return settle


def _one_epoch(session: Session, state: State, settle: Settle) -> Settle:
    """Train, settle the epoch before, judge, keep; returns what settles this one."""
    started, clock = time.perf_counter(), session.clock
    session.begin(state)
    with clock.on(STEPPING):
        metrics = session.steps.run(state)
    settle()
    entry = {"epoch": state.epoch, "metrics": metrics}
    state.history.append(entry)
    waiting = deferred_validation.judge(session, state, entry)
    entry["spent"] = session.lap({})
    entry["time"], entry["seconds"] = time.time(), time.perf_counter() - started
    return deferred_validation.keep(session, state, entry, waiting)


def _finish(session: Session, state: State) -> CellResult:
    """Judge the last or the best weights, as read back from their file; write the result last."""
    spec, folder, last = session.spec, session.folder, state.history[-1]
    state.epoch = last["epoch"]
    ranked = BEST if session.config.training.judged_epoch == "best" else ()
    metric = next((metric for metric in ranked if metric in state.best), None)
    name = BEST[metric][0] if metric else names.FINAL
    if metric is None:
        checkpoint.save(folder / name, state.weights(spec.key))
    network = networks.load(spec.network, folder / name).to(session.plan.device)
    with session.clock.on(PREDICTING):
        judging = session.validation.run(network, topology=True, reported=True)
    with session.clock.on(JUDGING):
        judgement = judging.wait()
    drawn = session.judges.submit(figures.curves, folder / cell_folder.CURVES, state.history)
    deferred_validation.shown(drawn, session.tell.figure)
    last["spent"] = session.lap(last["spent"])
    deferred_validation.store(session, state)
    checkpoint.previous(folder / names.LAST).unlink(missing_ok=True)
    result = CellResult(
        key=spec.key,
        judged_epoch=state.best[metric]["epoch"] if metric else state.epoch,
        epochs=len(state.history),
        stopped_early=len(state.history) < session.config.training.max_epochs,
        training_time_seconds=sum(entry["seconds"] for entry in state.history),
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


def _tell_again(tell: Callbacks, history: cell_folder.History, folder: Path) -> None:
    for entry in history:
        tell.epoch(entry["epoch"], entry["metrics"], None)
    for path in cell_folder.figures(folder) if history else ():
        tell.figure(path)
