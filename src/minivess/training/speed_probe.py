"""Time a few real steps on the first batch before a grid begins."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

import torch

from minivess.compute.reporting.forecast import Times
from minivess.config import ExperimentConfig
from minivess.contracts import Case, CellSpec, ComputePlan, Shape
from minivess.evaluation import metrics
from minivess.inference import Predictor
from minivess.training import batch_checks, context, epochs
from minivess.training.loaders import Batch, Batches
from minivess.training.monitoring.watchdog import Heartbeat
from minivess.training.state import State

PROBE_S = 3.0
"""Seconds after which no further step of a loss is timed."""

STEPS = 3


def times(
    specs: Sequence[CellSpec],
    plan: ComputePlan,
    config: ExperimentConfig,
    cases: Mapping[str, Case],
    counts: Sequence[int] = (),
) -> Times:
    """Seconds of what a training does; `specs` are cells of one network, one for each loss.

    `counts` are more numbers of threads with which a step is timed.

    Raises:
        DataError, PlanError: a batch that does not suit the network or the plan.
    """
    spec = specs[0]
    with context.machine(plan), torch.random.fork_rng():
        batches = Batches.of(spec, plan, config, cases)
        sizes = {batches.patch(epoch): epoch for epoch in range(config.training.max_epochs)}
        # Volumes are read now, and kept later.
        firsts = [batches.batch(n, 0, batches.order(n)) for n in reversed(sizes.values())]
        first, last = firsts[0], max(sizes.values())
        draw = partial(batches.batch, last, 0, batches.order(last))
        batch_checks.shape(first, spec, plan, plan.patch_size)
        batch_checks.contents(first, spec)
        state = State.start(spec, plan, config.training)
        window = partial(_window, state, first, spec, plan)
        timed = [_steps(one, First.again(batches, batch)) for batch in firsts for one in specs]
        usual = [min(steps.wall) for steps in timed]
        return Times(
            step=sum(usual) / len(usual),
            load=_seconds(draw),
            window=min(_seconds(window) for _ in range(2)),
            judge=_judging(first, spec, config),
            steps=sum(len(steps.wall) for steps in timed),
            quiet=min(1.0, *(min(steps.busy) / min(steps.wall) for steps in timed)),
            slow=max(max(steps.wall) / min(steps.wall) for steps in timed),
            ratios={
                count: _with_threads(spec, batches, first, count) / usual[0] for count in counts
            },
        )


@dataclass(frozen=True)
class First(Batches):
    """The first batch again and again, with the seconds that the step on it took."""

    first: Batch
    seconds: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)
    """Seconds in which the processor worked on the step, in this thread."""

    @classmethod
    def again(cls, batches: Batches, first: Batch) -> First:
        """Repeat the first batch of others."""
        return cls(batches.volumes, batches.plan, batches.training, batches.seed, first)

    def patch(self, epoch: int) -> Shape:
        """The patch of the batch, whatever the epoch."""
        x, y, z = self.first.image.shape[2:]
        return x, y, z

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """Enough for a few steps; the first of them sets up kernels and is no measure."""
        while len(self.seconds) < 2 or (len(self.seconds) <= STEPS and sum(self.seconds) < PROBE_S):
            begun, worked = time.perf_counter(), time.thread_time()
            yield self.first
            _finish(self.plan.device)
            self.seconds.append(time.perf_counter() - begun)
            self.busy.append(time.thread_time() - worked)


class Timed(NamedTuple):
    """Seconds of each step by the clock, and those in which the processor worked on it."""

    wall: list[float]
    busy: list[float]


def _steps(spec: CellSpec, batches: First) -> Timed:
    state = State.start(spec, batches.plan, batches.training)
    epochs.Steps.of(spec, batches, Heartbeat.silent()).run(state)
    return Timed(batches.seconds[1:], batches.busy[1:])


def _with_threads(spec: CellSpec, batches: Batches, first: Batch, count: int) -> float:
    plan = batches.plan.replace(threads=count)
    with context.machine(plan):
        return min(_steps(spec, First.again(replace(batches, plan=plan), first)).wall)


def _window(state: State, batch: Batch, spec: CellSpec, plan: ComputePlan) -> None:
    Predictor(
        state.judged.eval(), spec.window, plan.divisor, device=plan.device,
        precision=plan.mixed_precision,
    ).logits(batch.image[0].numpy())  # fmt: skip


def _judging(batch: Batch, spec: CellSpec, config: ExperimentConfig) -> float:
    """Seconds of all metrics for each voxel, where a label is judged against itself, moved."""
    label = batch.label[0, 0].numpy()
    work = partial(
        metrics.judge, label[::-1].copy(), label, classes=spec.classes, config=config.evaluation
    )
    return min(_seconds(work) for _ in range(2)) / math.prod(label.shape)


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _finish(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
