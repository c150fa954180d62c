"""What stays the same while one cell trains: loaders, validation, callbacks, threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from monai.data.meta_obj import get_track_meta, set_track_meta

from minivess.config import ExperimentConfig
from minivess.contracts import Case, CellSpec, ComputePlan
from minivess.training import epochs, loaders
from minivess.training.monitoring.timing import BESIDE, Clock, Laps
from minivess.training.monitoring.watchdog import (
    Heartbeat,
    OnProgress,
    OnStall,
    ProgressEvent,
    count_down,
)
from minivess.training.state import State
from minivess.training.validation import Validation

OnEpoch = Callable[[int, dict[str, float], float | None], None]
OnFigure = Callable[[Path], None]


def _ignore(_: object) -> None:
    """Default callback: do nothing."""


@dataclass(frozen=True)
class Callbacks:
    """What a training reports, and to whom.

    Attributes:
        epoch: Gets its number, its metrics, and the seconds left after it where known.
        figure: Gets each image.
        progress: Called by a thread each second.
        stall: Called by a thread with a file of stacks, and with None once steps are done again.
        resumed: Gets the number of epochs done before; these are repeated without seconds left.
    """

    epoch: OnEpoch
    figure: OnFigure
    progress: OnProgress = _ignore
    stall: OnStall = _ignore
    resumed: Callable[[int], None] = _ignore


@dataclass(frozen=True)
class TrainingContext:
    """One cell in training."""

    spec: CellSpec
    plan: ComputePlan
    config: ExperimentConfig
    folder: Path
    steps: epochs.Steps
    validation: Validation
    judges: Executor
    callbacks: Callbacks
    heartbeat: Heartbeat
    clock: Clock = field(default_factory=Clock)

    def over(self, state: State) -> bool:
        """Whether no epoch is left, or early stopping ends the training before `state.epoch`."""
        patience = self.config.training.early_stopping_patience
        best = state.best.get("val_loss", {"epoch": -1})
        judged = state.epoch - state.epoch % self.plan.validation_interval - 1
        stopped = bool(patience) and judged - best["epoch"] >= patience
        return stopped or state.epoch >= self.config.training.max_epochs

    def stops_here(self, state: State, loss: float) -> bool:
        """Whether early stopping ends the training with epoch `state.epoch` and its loss."""
        patience = self.config.training.early_stopping_patience
        best = state.best.get("val_loss", {"epoch": -1, "value": float("inf")})
        waited = state.epoch - best["epoch"]
        return bool(patience) and not loss < best["value"] and waited >= patience

    def judges_after(self, epoch: int) -> bool:
        """Whether an epoch, counted from 0, is judged: at intervals, and the last one."""
        return self._is_last(epoch) or (epoch + 1) % self.plan.validation_interval == 0

    def is_due(self, epoch: int, interval: int) -> bool:
        """Whether so many epochs have passed since, as of the judged epoch before this one."""
        before = epoch + 1 - self.plan.validation_interval
        return self._is_last(epoch) or (epoch + 1) // interval > max(0, before) // interval

    def _is_last(self, epoch: int) -> bool:
        return epoch + 1 == self.config.training.max_epochs

    def begin(self, state: State) -> None:
        """Report which epoch begins."""
        epochs = self.config.training.max_epochs
        steps = self.steps.batches.per_epoch
        self.heartbeat.begin(ProgressEvent(state.epoch, epochs, 0, steps, self._promised_s(state)))

    def left_s(self, state: State) -> float | None:
        """Seconds that may be left, at the pace of the epochs done."""
        promised, left = self._promised_s(state), self._epochs_left(state)
        under_way = state.epoch >= len(state.history)
        return promised and count_down(promised, left, self.heartbeat.since_s() * under_way)

    def _promised_s(self, state: State) -> float | None:
        done = [entry["seconds"] for entry in state.history]
        return self._epochs_left(state) * sum(done) / len(done) if done else None

    def _epochs_left(self, state: State) -> int:
        return self.config.training.max_epochs - len(state.history)

    def lap(self, spent: Laps) -> Laps:
        """The seconds of an epoch with those since the last lap."""
        self.clock.add(BESIDE, self.validation.processor_seconds())
        return self.clock.lap(spent)


@contextmanager
def opened(
    spec: CellSpec,
    plan: ComputePlan,
    config: ExperimentConfig,
    cases: Mapping[str, Case],
    *,
    folder: Path,
    labels: Path | None,
    callbacks: Callbacks,
) -> Iterator[TrainingContext]:
    """Open the context of one cell with its threads; torch uses threads and kernels as planned."""
    with ExitStack() as stack:
        stack.enter_context(machine(plan))
        judges = stack.enter_context(_threads(plan))
        heartbeat = stack.enter_context(
            Heartbeat(on_progress=callbacks.progress, on_stall=callbacks.stall, folder=folder)
        )
        steps = epochs.Steps.of(spec, loaders.Batches.of(spec, plan, config, cases), heartbeat)
        val = loaders.validation_volumes(spec, plan, config, cases)
        validation = Validation(
            spec, plan, config.evaluation, val, steps.loss, judges, heartbeat, labels
        )
        yield TrainingContext(
            spec, plan, config, folder, steps, validation, judges, callbacks, heartbeat
        )


@contextmanager
def _threads(plan: ComputePlan) -> Iterator[Executor]:
    """Threads for metrics and figures; what waits is dropped where the training fails."""
    pool = ThreadPoolExecutor(max(1, plan.num_workers // 2), thread_name_prefix="judge")
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def machine(plan: ComputePlan) -> Iterator[None]:
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
