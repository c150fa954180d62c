"""Fit epochs and folds to the time that a user gives, by the forecast."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from minivess import config as configs
from minivess.compute import judging
from minivess.compute.memory.cache import cached
from minivess.contracts import DatasetProfile
from minivess.errors import PlanError, UsageError
from minivess.grid.context import prepare
from minivess.grid.families import families
from minivess.orchestration.session import Session
from minivess.text import format_duration, several

RESERVE = 0.1
"""Share of the time for what follows the training, and for a machine that is busier later."""
FEWEST, MOST = 10, 1000
"""Epochs below which folds are given up, down to two, and above which none are added."""
FITTED = ("training.max_epochs", "training.extends")


def fitted(session: Session, profile: DatasetProfile) -> Session:
    """The session with the epochs and folds that `hours` allows; the same again from the cache.

    Raises:
        UsageError: the command gives epochs as well.
        PlanError: one epoch of the grid takes longer.
    """
    config = session.config
    if config.hours is None:
        return session
    clash = next((w for w in session.words if w.partition("=")[0] in FITTED), None)
    if clash is not None:
        raise UsageError(
            f"hours={config.hours:g} fits the epochs to the time, but {clash} is given.",
            remedy="leave out one of the two",
        )
    parts = (config.data, config.compute, config.training, config.evaluation)
    asked = {
        "hours": config.hours, "data": profile.dataset_hash, "model": config.model,
        "settings": [part.key_fields() for part in parts],
    }  # fmt: skip
    found = cached(session.home.footprints, asked, lambda: _fit(session, profile), own=[])
    session.print(f"  hours={config.hours:g}: {found['why']}")
    changed = {f"training.{name}": value for name, value in found["training"].items()}
    return session.with_config(configs.changed(config, {**changed, "hours": None}))


def _fit(session: Session, profile: DatasetProfile) -> dict[str, Any]:
    training, hours = session.config.training, session.config.hours or 0.0
    budget, folds = (1 - RESERVE) * hours, training.folds
    pace = Pace.of(session, profile)
    if pace.epochs(budget) < FEWEST and folds > 2 and training.splits is None:
        folds = 2
        fewer = configs.changed(session.config, {"training.folds": folds})
        pace = Pace.of(session.with_config(fewer), profile)
    epochs = min(MOST, pace.epochs(budget))
    if epochs < 1:
        least = format_duration(3600 * (pace.epoch_h + pace.once_h) / (1 - RESERVE))
        raise PlanError(
            f"hours={hours:g} is too short: one epoch of the grid takes {least}.",
            remedy="more hours, fewer training.losses, or a smaller network "
            "(model.filters=[8,16,32])",
        )
    chosen = {"max_epochs": epochs, "folds": folds}
    takes = format_duration(3600 * (epochs * pace.epoch_h + pace.once_h))
    why = f"{several(epochs, 'epoch')} on {folds} folds, training forecast to take {takes}"
    if pace.updates:
        # More epochs would otherwise make each of them shorter.
        chosen["iterations_per_epoch"] = pace.updates
        why += f", {several(pace.updates, 'update')} in each"
    return {"training": chosen, "why": why}


class Pace(NamedTuple):
    """Hours of one epoch of the whole grid, and of what comes once.

    `updates` of an epoch, where these depend on the number of epochs; else 0.
    """

    epoch_h: float
    once_h: float
    updates: int

    @classmethod
    def of(cls, session: Session, profile: DatasetProfile) -> Pace:
        """Time a few steps of each model."""
        asked = families(session.config, profile)
        grid, cells = prepare(session, profile, asked), sum(len(f.cells) for f in asked)
        epoch_h, once_h, updates = 0.0, 0.0, 0
        for name in list(grid.models):
            cost = grid.probe([f for f in asked if f.model.name == name], cells=cells)
            epoch_h += cost.total_hours * cost.steps_share / session.config.training.max_epochs
            once_h += cost.total_hours * (1 - cost.steps_share)
            longer = grid.models[name].plan.choices["iterations_per_epoch"]
            if longer.bound == judging.LONGER:
                updates = max(updates, longer.value)
        return cls(epoch_h, once_h, updates)

    def epochs(self, hours: float) -> int:
        """How many epochs fit into the hours."""
        return math.floor((hours - self.once_h) / self.epoch_h)
