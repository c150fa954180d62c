"""Optimizer, learning rate as a function of the epoch, moving average of the weights."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from minivess.config import TrainingConfig

SGD_MOMENTUM = 0.99  # nnU-Net's; with fewer steps than nnU-Net's, AdamW is the better default
POLY_POWER = 0.9


def optimizer(network: nn.Module, training: TrainingConfig) -> torch.optim.Optimizer:
    """AdamW, Adam, or SGD with Nesterov momentum over the trainable weights."""
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    rate, decay = training.learning_rate, training.weight_decay
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


def average(network: nn.Module, decay: float) -> AveragedModel | None:
    """The exponential moving average of the weights, or None without decay.

    It copies the module, so it comes before anything that wraps a block's forward.
    """
    if not decay:
        return None
    rule = get_ema_multi_avg_fn(decay)
    return AveragedModel(network, multi_avg_fn=rule)
