"""Optimizer, learning rate as a function of the epoch, moving average of the weights."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from minivess.config import TrainingConfig

SGD_MOMENTUM = 0.99  # nnU-Net's; with fewer steps than nnU-Net's, AdamW is the better default
POLY_POWER = 0.9


MUON_MOMENTUM = 0.95
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of a polynomial that draws singular values towards 1 (Jordan et al. 2024)."""


class Muon(torch.optim.AdamW):
    """Kernels get orthogonalised momentum, everything else AdamW (Jordan et al. 2024, "Muon").

    A kernel (out, in, x, y, z) is taken as a matrix of `out` rows. Updates are as large as AdamW's
    (Liu et al. 2025), so that both take the same learning rate.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update the kernels here, and leave what is left to AdamW."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.ndim > 1 and weight.grad is not None:
                    self._update(weight, weight.grad, group)
                    weight.grad = None
        return super().step(closure)

    def _update(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[weight]
        if not state:  # AdamW looks for a step in every state that is not empty
            state |= {"step": torch.zeros(()), "momentum": torch.zeros_like(weight)}
        momentum = state["momentum"]
        momentum.lerp_(gradient, 1 - MUON_MOMENTUM)
        ahead = gradient.lerp(momentum, MUON_MOMENTUM)
        size = 0.2 * math.sqrt(max(ahead.flatten(1).shape))
        weight.mul_(1 - group["lr"] * group["weight_decay"])
        weight.sub_(orthogonal(ahead.flatten(1)).view_as(weight), alpha=group["lr"] * size)


def orthogonal(matrix: Tensor) -> Tensor:
    """Roughly the nearest matrix whose singular values are all 1, by five Newton-Schulz steps."""
    a, b, c = NEWTON_SCHULZ
    tall = matrix.shape[0] > matrix.shape[1]
    found: Tensor = (matrix.mT if tall else matrix) / (matrix.norm() + 1e-7)
    for _ in range(5):
        square = found @ found.mT
        found = a * found + (b * square + c * square @ square) @ found
    return found.mT if tall else found


def optimizer(network: nn.Module, training: TrainingConfig) -> torch.optim.Optimizer:
    """AdamW, Adam, SGD with Nesterov momentum, or Muon over the trainable weights."""
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    rate, decay = training.learning_rate, training.weight_decay
    if training.optimizer == "muon":
        return Muon(weights, lr=rate, weight_decay=decay)
    if training.optimizer == "adamw":
        return torch.optim.AdamW(weights, lr=rate, weight_decay=decay)
    if training.optimizer == "adam":
        return torch.optim.Adam(weights, lr=rate, weight_decay=decay)
    return torch.optim.SGD(
        weights, lr=rate, weight_decay=decay, momentum=SGD_MOMENTUM, nesterov=True
    )


def learning_rate(epoch: int, training: TrainingConfig) -> float:
    """The rate during an epoch, counted from 0: a linear rise, then cosine, poly or constant.

    A function of the epoch, so that a resumed cell has no scheduler to restore.
    """
    warmup = training.warmup_epochs
    if epoch < warmup:
        return training.learning_rate * (epoch + 1) / (warmup + 1)
    progress = (epoch - warmup) / (training.max_epochs - warmup)
    if training.scheduler == "cosine":
        return training.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
    if training.scheduler == "poly":
        return training.learning_rate * math.pow(1 - progress, POLY_POWER)
    return training.learning_rate


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Use this rate from the next step on."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def average(network: nn.Module, training: TrainingConfig) -> AveragedModel | None:
    """The exponential moving average of the weights, or their plain mean; None if not asked for.

    It copies the module, so it comes before anything that wraps a block's forward.
    """
    if not training.averages:
        return None
    rule = get_ema_multi_avg_fn(training.ema_decay) if training.ema_decay else None
    return AveragedModel(network, multi_avg_fn=rule)
