"""Mutable state of a training, saved to and restored from checkpoints."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from minivess import names, networks
from minivess.config import TrainingConfig
from minivess.contracts import CellSpec, ComputePlan
from minivess.training import optim
from minivess.training.cell_folder import History
from minivess.training.checkpoint import Stored


@dataclass
class State:
    """Network, optimizer, average, scaler, history, best values; `epoch` is the next to run."""

    network: nn.Module
    average: AveragedModel | None
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    epoch: int = 0
    history: History = field(default_factory=list)
    best: dict[str, dict[str, Any]] = field(default_factory=dict)
    untrained: dict[str, float] = field(default_factory=dict)
    unsettled: bool = False
    """Whether the last entry of the history still lacks what threads work out."""

    @classmethod
    def start(
        cls, spec: CellSpec, plan: ComputePlan, training: TrainingConfig, folder: Path | None = None
    ) -> State:
        """The state before the first step: of the seed, or of the weights given in a folder."""
        network = networks.initial(spec.network, spec.seed)
        if training.init is not None and folder is not None:
            network.load_state_dict(networks.weights_of(folder / names.INITIAL))
        network = network.to(plan.device)
        average = optim.average(network, training)
        if training.gradient_checkpointing:
            network = networks.recompute(network)
        return cls(
            network=network,
            average=average,
            optimizer=optim.optimizer(network, training),
            scaler=torch.amp.GradScaler(
                torch.device(plan.device).type, enabled=plan.mixed_precision == "fp16"
            ),
        )

    @property
    def judged(self) -> nn.Module:
        """The network that validation and checkpoints see: the average once there is one."""
        if self.average is None or not self.average.n_averaged:
            return self.network
        return self.average.module

    def improves(self, metric: str, value: float | None, sign: int) -> bool:
        """Whether a value is better than the best so far; an undefined one never is."""
        if value is None:
            return False
        return metric not in self.best or sign * value > sign * self.best[metric]["value"]

    def weights(self, key: str, *, copied: bool = False) -> Stored:
        """A checkpoint to judge and to serve; copied, no later step changes it."""
        weights = self.judged.state_dict()
        if copied:
            weights = {name: value.detach().cpu().clone() for name, value in weights.items()}
        return {"key": key, "epoch": self.epoch, "weights": weights}

    def stored(self, key: str) -> Stored:
        """A checkpoint to go on from, taken at the end of epoch `epoch`."""
        return {
            "key": key,
            "epoch": self.epoch,
            "weights": self.network.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "history": self.history,
            "best": self.best,
            "untrained": self.untrained,
            "unsettled": self.unsettled,
        }

    def restore(self, stored: Stored | None, key: str) -> bool:
        """Take over a checkpoint and the epoch that it ended; False where there is none."""
        if stored is None or stored["key"] != key:
            return False
        self.network.load_state_dict(stored["weights"])
        if self.average:
            self.average.load_state_dict(stored["average"])
        self.optimizer.load_state_dict(stored["optimizer"])
        self.scaler.load_state_dict(stored["scaler"])
        self.history, self.best = stored["history"], stored["best"]
        self.untrained, self.unsettled = stored["untrained"], stored["unsettled"]
        self.epoch = stored["epoch"]
        return True
