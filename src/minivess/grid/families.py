"""Families and cells of the grid with their content keys; needs neither torch nor a server."""

from __future__ import annotations

from dataclasses import dataclass

from minivess import config as configs
from minivess import keys, names
from minivess.config import ExperimentConfig, ModelConfig
from minivess.contracts import DatasetProfile, Fold, Loss, Split
from minivess.data import splits
from minivess.errors import StoreError
from minivess.orchestration.session import Session
from minivess.training import grid


@dataclass(frozen=True)
class Cell:
    """One fold of a family: everything that decides its weights, and the key of that."""

    fold: Fold
    ingredients: keys.Ingredients
    key: str

    def shorter(self, epochs: int) -> str:
        """The key of the same cell, trained from epoch 0 for `epochs` epochs."""
        training = {**self.ingredients["training"], "max_epochs": epochs, "extends": None}
        return keys.digest({**self.ingredients, "training": training})


@dataclass(frozen=True)
class Family:
    """One model x loss x seed over its folds."""

    name: str
    model: ModelConfig
    loss: Loss
    seed: int
    split: Split
    cells: tuple[Cell, ...]

    def title(self, cell: Cell) -> str:
        """The name of one of its cells on screens, for example `dynunet_dice_ce fold 0`."""
        return f"{self.name} fold {cell.fold.index}"

    @property
    def key(self) -> str:
        """Digest of its name and the keys of its cells."""
        return keys.digest([self.name, *sorted(cell.key for cell in self.cells)])

    @property
    def ingredients(self) -> keys.Ingredients:
        """Everything that decides its key, by fold."""
        return {f"fold {cell.fold.index}": cell.ingredients for cell in self.cells}


def families(config: ExperimentConfig, profile: DatasetProfile) -> tuple[Family, ...]:
    """Every family of the grid, in the order in which it trains."""
    by_seed = {seed: split(config, profile, seed) for seed in config.training.seeds}
    return tuple(
        family(config, profile, model=model, loss=loss, seed=seed, parts=by_seed[seed])
        for model, loss, seed in grid.families(config)
    )


def family(
    config: ExperimentConfig,
    profile: DatasetProfile,
    *,
    model: ModelConfig,
    loss: str,
    seed: int,
    parts: Split,
) -> Family:
    """One family with the keys of its cells, one cell for each fold of `parts`."""
    settings = configs.loss(loss)
    terms = Loss(name=settings.name, terms=settings.terms)
    cells = []
    for fold in parts.folds:
        ingredients = grid.cell_ingredients(
            config,
            profile_hash=profile.dataset_hash,
            label_map=profile.label_map,
            classes=profile.classes,
            fold=fold,
            seed=seed,
            network=model,
            loss=terms,
        )
        cells.append(Cell(fold, ingredients, keys.digest(ingredients)))
    name = grid.run_name(model.name, terms.name, seed, config.training.seeds)
    return Family(name, model, terms, seed, parts, tuple(cells))


def split(config: ExperimentConfig, profile: DatasetProfile, seed: int) -> Split:
    """The folds of one seed: read from `training.splits`, or drawn from groups and seed."""
    training, volumes = config.training, profile.volumes
    ids = [stats.case for stats in volumes]
    groups = {stats.case: stats.group for stats in volumes}
    if training.splits is not None:
        made = splits.read(training.splits, ids, groups)
    else:
        foreground = {stats.case: stats.foreground_ratio for stats in volumes}
        made = splits.make(
            ids,
            groups,
            folds=training.folds,
            seed=seed,
            test_fraction=training.test_fraction,
            foreground=foreground if training.stratify == "foreground" else None,
        )
    unlearnt = splits.unlearnt(made, {stats.case: stats.label_values for stats in volumes})
    return made.replace(notes=(*made.notes, *unlearnt))


def explain_change(session: Session, family: Family) -> str | None:
    """What changed since a family of this name was trained, for example `losses.py`; else None."""
    experiment, name = session.config.experiment, family.name
    finished = session.ask(
        lambda store: store.search(
            experiment=experiment, kind=names.FAMILY, status="FINISHED", name=name
        )
    )
    if not finished:
        return None
    try:
        before = session.store.read_json(finished[0].run_id, names.INGREDIENTS_ARTIFACT)
    except StoreError:
        return f"run {finished[0].run_id} has no list of its inputs"
    changed = keys.differences(before, family.ingredients)
    return ", ".join(dict.fromkeys(line.split(": ", 1)[-1] for line in changed))
