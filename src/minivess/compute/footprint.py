"""What one network takes under the settings of one experiment: divisor, step, sliding window."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from minivess import config as configuration
from minivess import losses
from minivess.compute import memory
from minivess.compute.budget import Device, Precision
from minivess.config import ExperimentConfig
from minivess.contracts import Network, Shape


class Footprint:
    """Asks the network, and remembers the answers in the folder `cache`."""

    def __init__(
        self,
        config: ExperimentConfig,
        network: Network,
        precision: Precision,
        *,
        device: Device,
        cache: Path | None = None,
    ) -> None:
        self.training = config.training
        self.network = network
        self.precision = precision
        self.device = device
        self.cache = cache

    @cached_property
    def divisor(self) -> Shape:
        """What each axis of a patch must be divisible by."""
        return memory.divisor(self.network, cache=self.cache)

    def step_gb(self, patch: Shape, batch: int) -> float:
        """GiB of a training step with the hungriest loss of the grid."""
        return memory.predict(
            self.network,
            patch=patch,
            batch=batch,
            precision=self.precision,
            optimizer=self.training.optimizer,
            checkpointing=self.training.gradient_checkpointing,
            losses=[losses.resolve(configuration.loss(name)) for name in self.training.losses],
            cache=self.cache,
        )

    def window_gb(self, patch: Shape, volume: Shape) -> float:
        """GiB while a volume is judged by the sliding window."""
        return memory.predict_window(
            self.network,
            patch=patch,
            volume=volume,
            device=self.device,
            precision=self.precision,
            optimizer=self.training.optimizer,
            cache=self.cache,
        )

    def accepts(self, patch: Shape, batch: int) -> bool:
        """Whether a training step takes this patch."""
        return memory.accepts(self.network, patch, batch, cache=self.cache)
