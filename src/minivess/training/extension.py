"""A finished training that goes on for more epochs, because somebody asked for it."""

from __future__ import annotations

from pathlib import Path

from minivess import files, names
from minivess.config import ExperimentConfig, TrainingConfig
from minivess.contracts import CellSpec
from minivess.errors import TrainingError
from minivess.training import cell, checkpoint, optimisation


def adopt(base: Path, base_key: str, folder: Path, spec: CellSpec, config: ExperimentConfig) -> str:
    """Begin the cell of `folder` where the finished one of `base` ended; says what that means.

    Raises:
        TrainingError: there is no finished training of so many epochs in this home.
    """
    finished, plan = cell.complete(base, base_key), cell.stored_plan(base, base_key)
    state = checkpoint.load(base / names.LAST)
    if finished is None or plan is None or state is None:
        raise TrainingError(
            f"No finished training of {config.training.extends} epochs lies in {base}.",
            remedy=f"train it first: training.max_epochs={config.training.extends} without "
            "training.extends, and all else as it is now",
        )
    cell.open_cell(folder, spec, plan, resume=False)
    for name in (names.BEST_LOSS, names.BEST_PRIMARY):
        if name in finished.files:
            files.copy(base / name, folder / name)
    checkpoint.save(folder / names.LAST, {**state, "key": spec.key})
    return meaning(finished.epochs, config.training)


def meaning(done: int, training: TrainingConfig) -> str:
    """What going on does to the schedule."""
    short = training.model_copy(update={"max_epochs": training.extends})
    before, after = (
        optimisation.learning_rate(e, t) for e, t in ((done - 1, short), (done, training))
    )
    return (
        f"goes on after epoch {done} of a finished training. Its {training.scheduler} schedule had "
        f"the learning rate at {before:.2g}; that of {training.max_epochs} epochs goes on at "
        f"{after:.2g}. The result is not that of {training.max_epochs} epochs in one go"
    )
