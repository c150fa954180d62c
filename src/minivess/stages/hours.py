"""Fit epochs and folds to the time that a user gives, by the forecast."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from minivess import config as configs
from minivess.compute import judging
from minivess.compute.memory.cache import cached
from minivess.contracts import Case, DatasetProfile
from minivess.errors import PlanError, UsageError
from minivess.grid.context import GridContext, prepare
from minivess.grid.families import Family, families
from minivess.orchestration.session import Session
from minivess.text import format_duration, several

FEWEST, MOST = 10, 1000
"""Epochs below which folds are given up, down to two, and above which none are added."""
FITTED = ("training.max_epochs", "training.extends")
CHAIN_S = 45.0
"""Seconds of profile, analysis and deployment of the demo, which have their part of the hours."""


def fitted(
    session: Session,
    profile: DatasetProfile,
    cases: Mapping[str, Case] | None = None,
    *,
    chain: bool = False,
) -> Session:
    """The session with the epochs and folds that `hours` allows; the same again from the cache.

    Args:
        cases: the volumes where they lie; None: those of the profile's version.
        chain: the hours are for the four flows, not for the training alone.

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
        "settings": [part.key_fields() for part in parts], "chain": chain,
    }  # fmt: skip
    work = partial(_fit, session, profile, cases, beside_h=chain * CHAIN_S / 3600)
    found = cached(session.home.footprints, asked, work, own=[])
    session.print(f"  hours={config.hours:g}: {found['why']}")
    changed = {f"training.{name}": value for name, value in found["training"].items()}
    return session.with_config(configs.changed(config, {**changed, "hours": None}))


def _fit(
    session: Session,
    profile: DatasetProfile,
    cases: Mapping[str, Case] | None,
    *,
    beside_h: float,
) -> dict[str, Any]:
    training, hours = session.config.training, session.config.hours or 0.0
    given = hours - beside_h
    folds, grid = training.folds, TimedGrid.of(session, profile, cases)
    if grid.epochs(given) < FEWEST and folds > 2 and training.splits is None:
        folds = 2
        fewer = configs.changed(session.config, {"training.folds": folds})
        grid = TimedGrid.of(session.with_config(fewer), profile, cases)
    epochs = grid.epochs(given)
    if epochs < 1:
        least = format_duration(3600 * (grid.hours(1) + beside_h))
        raise PlanError(
            f"hours={hours:g} is too short: with one epoch it takes {least}.",
            remedy="more hours, fewer training.losses, or a smaller network "
            "(model.filters=[8,16,32])",
        )
    chosen = {"max_epochs": epochs, "folds": folds}
    takes = format_duration(3600 * grid.hours(epochs))
    why = f"{several(epochs, 'epoch')} on {folds} folds, training forecast to take {takes}"
    if grid.updates:
        # More epochs would otherwise make each of them shorter.
        chosen["iterations_per_epoch"] = grid.updates
        why += f", {several(grid.updates, 'update')} in each"
    return {"training": chosen, "why": why}


class TimedGrid(NamedTuple):
    """A grid whose steps are timed once, to be forecast with any number of epochs.

    `updates` of an epoch, where these would depend on the number of epochs; else 0.
    """

    grid: GridContext
    asked: tuple[Family, ...]
    updates: int

    @classmethod
    def of(
        cls, session: Session, profile: DatasetProfile, cases: Mapping[str, Case] | None
    ) -> TimedGrid:
        """Plan each model."""
        asked = families(session.config, profile)
        grid = prepare(session, profile, asked, cases)
        longer = [model.plan.choices["iterations_per_epoch"] for model in grid.models.values()]
        updates = max((each.value for each in longer if each.bound == judging.LONGER), default=0)
        if updates:
            fixed = configs.changed(session.config, {"training.iterations_per_epoch": updates})
            grid = replace(grid, session=session.with_config(fixed))
        return cls(grid, asked, updates)

    def hours(self, epochs: int) -> float:
        """Hours of the grid with so many epochs."""
        grid, cells = self.grid.with_epochs(epochs), sum(len(one.cells) for one in self.asked)
        by_model = ([f for f in self.asked if f.model.name == name] for name in list(grid.models))
        return sum(grid.probe(mine, cells=cells).total_hours for mine in by_model)

    def epochs(self, hours: float) -> int:
        """How many epochs fit into the hours, none to `MOST`."""
        return bisect_right(range(1, MOST + 1), hours, key=self.hours)
