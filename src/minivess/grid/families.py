"""The grid of flow 2 as keys: what would be trained, decided without torch and without a server."""

from __future__ import annotations

from dataclasses import dataclass

from minivess import config as configs
from minivess import keys
from minivess.config import ExperimentConfig, ModelConfig
from minivess.contracts import DatasetProfile, Fold, Loss, Split
from minivess.orchestration.session import Session


@dataclass(frozen=True)
class Cell:
    """One fold of a family: what decides its weights, and the key of that."""

    fold: Fold
    ingredients: keys.Ingredients
    key: str

    def shorter(self, epochs: int) -> str:
        """The key of the same cell, trained from its start for so many epochs."""
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

    @property
    def key(self) -> str:
        """A family is its cells, under the name that reports call it by."""
        return keys.digest([self.name, *sorted(cell.key for cell in self.cells)])

    @property
    def ingredients(self) -> keys.Ingredients:
        """What its key was made of, fold by fold."""
        return {f"fold {cell.fold.index}": cell.ingredients for cell in self.cells}


def families(config: ExperimentConfig, profile: DatasetProfile) -> tuple[Family, ...]:
    """Every family of the grid, in the order in which it trains."""
    from minivess.training import grid

    splits = {seed: split(config, profile, seed) for seed in config.training.seeds}
    return tuple(
        family(config, profile, (model, loss, seed), splits[seed])
        for model, loss, seed in grid.families(config)
    )


def family(
    config: ExperimentConfig,
    profile: DatasetProfile,
    axes: tuple[ModelConfig, str, int],
    parts: Split,
) -> Family:
    """One family with the keys of its cells."""
    from minivess.training import grid

    model, terms, seed = axes[0], configs.loss(axes[1]), axes[2]
    loss = Loss(name=terms.name, terms=terms.terms)
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
            loss=loss,
        )
        cells.append(Cell(fold, ingredients, keys.digest(ingredients)))
    name = grid.run_name(model.name, loss.name, seed, config.training.seeds)
    return Family(name, model, loss, seed, parts, tuple(cells))


def split(config: ExperimentConfig, profile: DatasetProfile, seed: int) -> Split:
    """The folds of one seed: given by a file, or made from groups and seed."""
    from minivess.data import splits

    ids = [stats.case for stats in profile.volumes]
    groups = {stats.case: stats.group for stats in profile.volumes}
    stratified = config.training.stratify == "foreground"
    foreground = {stats.case: stats.foreground_ratio for stats in profile.volumes}
    if config.training.splits is not None:
        made = splits.read(config.training.splits, ids, groups)
    else:
        made = splits.make(
            ids,
            groups,
            folds=config.training.folds,
            seed=seed,
            test_fraction=config.training.test_fraction,
            foreground=foreground if stratified else None,
        )
    unlearnt = splits.unlearnt(made, {stats.case: stats.label_values for stats in profile.volumes})
    return made.replace(notes=(*made.notes, *unlearnt))


def explain_change(session: Session, wanted: Family) -> str | None:
    """Why a family of this name cannot be reused, for example `training code: losses.py`."""
    from minivess import names
    from minivess.errors import StoreError

    experiment = session.config.experiment
    finished = session.ask(
        lambda store: store.search(experiment=experiment, kind=names.FAMILY, status="FINISHED")
    )
    for record in finished or ():
        if record.name == wanted.name:
            try:
                before = session.store.read_json(record.run_id, names.INGREDIENTS_ARTIFACT)
            except StoreError:
                return f"run {record.run_id} does not say what it was made of"
            changed = keys.differences(before, wanted.ingredients)
            return ", ".join(dict.fromkeys(line.split(": ", 1)[-1] for line in changed))
    return None
