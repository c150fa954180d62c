"""What the checks look at."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from minivess.compute import hardware
from minivess.compute.hardware import Readings
from minivess.config import Environment, ExperimentConfig
from minivess.home import Home, open_home
from minivess.tracking.store.store import Store, open_store

State = Literal["ok", "note", "warning", "error"]
Answer = tuple[State, str]


@dataclass(frozen=True)
class Surroundings:
    """Environment variables, settings and machine of a command."""

    env: Environment
    config: ExperimentConfig
    readings: Readings = field(default_factory=hardware.read)

    @cached_property
    def home(self) -> Home:
        """The output folder, moved or not.

        Raises:
            OrchestrationError: it cannot be made or read.
        """
        return open_home(self.env.home, moved=True, reading=True)

    @cached_property
    def store(self) -> Store:
        """The MLflow store.

        Raises:
            StoreError: it does not answer, or it is of another release.
        """
        return open_store(self.home, self.config.tracking)

    @property
    def here(self) -> Path:
        """The folder that the command was typed in."""
        return Path.cwd()


def above(value: float, least: float, enough: float) -> State:
    """`error` below the least that works, `warning` below what is enough."""
    return "error" if value < least else "warning" if value < enough else "ok"
