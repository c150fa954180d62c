"""Run the optimizer's steps of one epoch and collect its training metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from minivess import losses
from minivess.config import TrainingConfig
from minivess.contracts import IGNORED, CellSpec, ComputePlan
from minivess.errors import TrainingError
from minivess.training import batch_checks, distributed, optim
from minivess.training.loaders import Batch, Batches
from minivess.training.monitoring.watchdog import Heartbeat
from minivess.training.state import State
from minivess.training.transforms import seed_of

CHECKED_AT_ONCE = 16
"""Steps after which their losses are looked at: looking makes the processor wait for a GPU."""


@dataclass(frozen=True)
class Steps:
    """Runs the epochs of one cell."""

    spec: CellSpec
    plan: ComputePlan
    training: TrainingConfig
    batches: Batches
    loss: nn.Module
    heartbeat: Heartbeat

    @classmethod
    def of(cls, spec: CellSpec, batches: Batches, heartbeat: Heartbeat) -> Self:
        """Build the loss, where the plan of the batches computes."""
        loss = losses.build(spec.loss, spec.network.out_channels, ignores=spec.ignores)
        plan = batches.plan
        return cls(spec, plan, batches.training, batches, loss.to(plan.device), heartbeat)

    def run(self, state: State) -> dict[str, float]:
        """Train through epoch `state.epoch` and return its mean training metrics.

        Raises:
            TrainingError: a loss that is not finite.
            PlanError: a batch of another shape than the plan's.
        """
        rate = optim.learning_rate(state.epoch, self.training)
        optim.set_learning_rate(state.optimizer, rate)
        state.network.train()
        state.optimizer.zero_grad(set_to_none=True)
        patch = self.batches.patch(state.epoch)
        tally = Tally(self.spec.network.out_channels, self.plan.device, ignores=self.spec.ignores)
        for step, batch in enumerate(self.batches.epoch(state.epoch)):
            batch_checks.shape(batch, self.spec, self.plan, patch)
            seed = seed_of("step", self.spec.seed, state.epoch, step)
            torch.manual_seed(seed + distributed.rank())
            self._accumulate(state, batch, tally)
            if (step + 1) % self.training.accumulation_steps == 0:
                self._update(state)
            if (step + 1) % CHECKED_AT_ONCE == 0:
                self._require_finite(tally, state.epoch)
            self.heartbeat.step(step + 1)
        self._require_finite(tally, state.epoch)
        return tally.metrics() | {"learning_rate": rate}

    def _accumulate(self, state: State, batch: Batch, tally: Tally) -> None:
        device = self.plan.device
        image = batch.image.to(device, non_blocking=True)
        target = batch.label.to(device, non_blocking=True).long()
        with self._autocast():
            logits = state.network(image)
        logits, target = distributed.gather(logits), distributed.gather(target)
        values = self.loss(logits, target, epoch=state.epoch)
        state.scaler.scale(values["loss"] / self.training.accumulation_steps).backward()
        head = logits[:, 0] if logits.ndim > target.ndim else logits
        tally.add(values, head, target, batch.cases)

    def _update(self, state: State) -> None:
        distributed.add_gradients(state.network)
        if self.training.gradient_clip_val:
            state.scaler.unscale_(state.optimizer)
            nn.utils.clip_grad_norm_(state.network.parameters(), self.training.gradient_clip_val)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.optimizer.zero_grad(set_to_none=True)
        begun = state.epoch >= (self.training.average_from or 0)
        if state.average is not None and begun:
            state.average.update_parameters(state.network)

    def _autocast(self) -> AbstractContextManager[object]:
        if self.plan.mixed_precision == "none":
            return nullcontext()
        kind = torch.bfloat16 if self.plan.mixed_precision == "bf16" else torch.float16
        return torch.autocast(torch.device(self.plan.device).type, dtype=kind)

    def _require_finite(self, tally: Tally, epoch: int) -> None:
        found = tally.first_not_finite()
        if found is None:
            return
        value, share = found
        cases = distributed.gather_items(share)  # all see this loss, so all come here
        raise TrainingError(
            f"The loss became {value} in epoch {epoch}, on patches of "
            f"{', '.join(sorted(set(cases)))}.",
            remedy="look at these volumes, or lower the rate: "
            f"training.learning_rate={self.training.learning_rate / 2:g}",
        )


class Tally:
    """Sums over the steps of an epoch, kept where the network is: reading a GPU waits for it."""

    def __init__(self, classes: int, device: str, *, ignores: bool = False) -> None:
        self.classes = classes
        self.ignores = ignores
        self.steps = 0
        self.sums: dict[str, Tensor] = {}
        self.confusion = torch.zeros(classes * classes, dtype=torch.int64, device=device)
        self._unchecked: list[tuple[Tensor, tuple[str, ...]]] = []

    def add(
        self, values: Mapping[str, Tensor], logits: Tensor, target: Tensor, cases: tuple[str, ...]
    ) -> None:
        """Count one step: loss values, and how target and prediction meet in each voxel."""
        self.steps += 1
        for name, value in values.items():
            known = self.sums.get(name)
            double = value.detach().double()
            self.sums[name] = double if known is None else known + double
        self._unchecked.append((values["loss"].detach(), cases))
        pairs = target[:, 0].int() * self.classes + winners(logits.detach())
        if self.ignores:
            pairs = pairs[target[:, 0] != IGNORED]
        self.confusion += torch.bincount(pairs.flatten(), minlength=self.classes**2)

    def first_not_finite(self) -> tuple[float, tuple[str, ...]] | None:
        """The first loss that is not finite since this was last asked, and its cases."""
        asked, self._unchecked = self._unchecked, []
        values = torch.stack([loss for loss, _ in asked]).tolist() if asked else []
        for value, (_, cases) in zip(values, asked, strict=True):
            if not math.isfinite(value):
                return value, cases
        return None

    def metrics(self) -> dict[str, float]:
        """`train_loss`, `train_loss_<component>`, and `train_dice` over all patches together."""
        named = {
            "train_loss" if name == "loss" else f"train_loss_{name}": float(total) / self.steps
            for name, total in self.sums.items()
        }
        return named | {"train_dice": self._dice()}

    def _dice(self) -> float:
        table = self.confusion.cpu().reshape(self.classes, self.classes).double()
        both, either = table.diagonal()[1:], (table.sum(0) + table.sum(1))[1:]
        return float(torch.where(either > 0, 2 * both / either.clamp(min=1), 1.0).mean())


def winners(logits: Tensor) -> Tensor:
    """The most likely class (B, X, Y, Z) uint8 of logits (B, C, X, Y, Z).

    `argmax` over channels takes fifteen times as long on a CPU.
    """
    best, found = logits[:, 0], torch.zeros_like(logits[:, 0], dtype=torch.uint8)
    for index in range(1, logits.shape[1]):
        found.masked_fill_(logits[:, index] > best, index)
        best = torch.maximum(best, logits[:, index])
    return found
