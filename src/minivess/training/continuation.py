"""Continue a finished training for more epochs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from minivess import files, names
from minivess.config import TrainingConfig
from minivess.contracts import CellResult, ComputePlan
from minivess.errors import TrainingError
from minivess.training import cell_folder, checkpoint, optim


@dataclass(frozen=True)
class FinishedTraining:
    """The finished training of `extends` epochs from which a longer one continues."""

    folder: Path
    key: str
    extends: int

    def plan(self, fresh: ComputePlan) -> ComputePlan:
        """The plan that it was trained with, or on another device than then the fresh one.

        Raises:
            TrainingError: there is no such training in this home.
        """
        self._result()
        plan = cell_folder.stored_plan(self.folder, self.key)
        return fresh if plan is None or plan.device != fresh.device else plan

    def begin(self, longer: Path, key: str) -> bool:
        """Let an open cell begin where this one ended, unless it has begun already.

        Raises:
            TrainingError: there is no such training in this home, or its last state is gone.
        """
        last = longer / names.LAST
        if last.exists() or checkpoint.previous(last).exists():
            return False
        result, state = self._result(), checkpoint.load(self.folder / names.LAST)
        if state is None:
            raise self._absent()
        for name in (names.BEST_LOSS, names.BEST_PRIMARY):
            if name in result.files:
                files.copy(self.folder / name, longer / name)
        checkpoint.save(last, {**state, "key": key})
        return True

    def _result(self) -> CellResult:
        result = cell_folder.complete(self.folder, self.key)
        if result is None:
            raise self._absent()
        if result.stopped_early:
            raise TrainingError(
                f"The training of {self.extends} epochs in {self.folder} stopped early, after "
                f"{result.epochs}, and the same rule would end it again at once.",
                remedy="leave out training.extends, which trains from the start",
            )
        return result

    def _absent(self) -> TrainingError:
        return TrainingError(
            f"No finished training of {self.extends} epochs lies in {self.folder}.",
            remedy=f"train it first: training.max_epochs={self.extends} without training.extends, "
            "and all else as it is now",
        )


def describe(training: TrainingConfig) -> str:
    """Describe what continuing after `extends` epochs does to the schedule."""
    assert training.extends is not None
    short = training.model_copy(update={"max_epochs": training.extends})
    before = optim.learning_rate(training.extends - 1, short)
    after = optim.learning_rate(training.extends, training)
    return (
        f"goes on after epoch {training.extends} of a finished training. Its {training.scheduler} "
        f"schedule had the learning rate at {before:.2g}; that of {training.max_epochs} epochs "
        f"goes on at {after:.2g}. The result is not that of {training.max_epochs} epochs in one go"
    )
