"""One cell: reused or trained, and trained anew with a smaller plan where memory ran out."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from minivess import home, names
from minivess.contracts import CellSpec, ComputePlan, RunRecord
from minivess.errors import OutOfMemory
from minivess.grid import cell_run
from minivess.grid import context as grounds
from minivess.grid.context import Ground
from minivess.grid.families import Cell, Family
from minivess.orchestration.session import Session

if TYPE_CHECKING:
    from minivess.tracking.run.run import Run
    from minivess.training.continuation import Shorter

log = logging.getLogger(__name__)
MEMORY = {"category": "memory"}


def train_cell(
    session: Session, ground: Ground, axes: tuple[Family, Cell, Run]
) -> cell_run.Trained:
    """The result of one cell, whichever way leads to it."""
    family, cell, parent = axes
    title = f"{family.name} fold {cell.fold.index}"
    found = cell_run.reusable(session, cell)
    if found is not None:
        session.reuse(title, found[0])
        session.board.expect(-1)
        return found
    folder = session.home.cells / cell.key
    work = Work(session, ground, family, cell, parent, folder)
    with home.lock(folder.with_suffix(".lock"), what=f"training {title}", wait=True):
        # Whoever held the lock may have trained it.
        done = cell_run.reusable(session, cell)
        if done is not None:
            return done
        with grounds.own_gpu(session, ground, family.model.name):
            return work.train()


@dataclass(frozen=True)
class Work:
    """The training of one cell in its folder; the plan stored there decides."""

    session: Session
    ground: Ground
    family: Family
    cell: Cell
    parent: Run
    folder: Path

    def train(self) -> cell_run.Trained:
        """Attempt the cell until it is whole or no smaller plan is left.

        Raises:
            OutOfMemory: the smallest plan that may be used takes too much.
        """
        from minivess.compute import out_of_memory
        from minivess.training import distributed
        from minivess.training.cell_folder import stored_plan

        plan = self.first_plan()
        while True:
            try:
                return self.attempt(plan)
            except OutOfMemory:
                following = stored_plan(self.folder, self.cell.key)
                if following is None or following.number == plan.number or distributed.size() > 1:
                    # Other processes wait in the middle of a step; only a new start frees them.
                    raise
            plan = following
            out_of_memory.release()

    def first_plan(self) -> ComputePlan:
        """The plan that the cell goes on with, or one smaller where the kernel killed it."""
        from minivess.compute import choices
        from minivess.training.cell_folder import complete, stored_plan

        resume = self.session.config.training.retrain != "always"
        # A cell that goes on keeps the plan that it was started with, its patch included.
        shared = self.ground.models[self.family.model.name][1]
        fresh = choices.for_fold(shared, self.session.config, len(self.cell.fold.train))
        shorter = self.shorter()
        if shorter is not None and not (resume and stored_plan(self.folder, self.cell.key)):
            fresh = shorter.plan(fresh).replace(after_run=None)
        plan = self.open(fresh, resume=resume)
        dead = self.session.ask(
            lambda store: store.last(self.cell.key, experiment=self.session.config.experiment)
        )
        if (
            dead is None
            or not resume
            or dead.tags.get(names.ERROR_TYPE) != names.OUT_OF_MEMORY_KILL
            or plan.after_run == dead.run_id
            or complete(self.folder, self.cell.key) is not None
        ):
            return plan
        return self.after_kill(plan, dead)

    def shorter(self) -> Shorter | None:
        """The finished training that this one goes on from, if that is asked for."""
        from minivess.training.continuation import Shorter

        epochs = self.session.config.training.extends
        if epochs is None:
            return None
        key = self.cell.shorter(epochs)
        return Shorter(self.session.home.cells / key, key, epochs)

    def open(self, plan: ComputePlan, *, resume: bool) -> ComputePlan:
        """Open the cell, at epoch 0 or where a shorter training ended; the plan it goes by."""
        from minivess.training.cell_folder import open_cell
        from minivess.training.continuation import meaning

        plan = open_cell(self.folder, self.spec(plan), plan, resume=resume)
        shorter = self.shorter()
        if shorter is not None and shorter.begin(self.folder, self.cell.key):
            said = meaning(self.session.config.training)
            self.session.say(f"  {self.family.name} fold {self.cell.fold.index} {said}")
        return plan

    def after_kill(self, plan: ComputePlan, dead: RunRecord) -> ComputePlan:
        """A smaller plan than the one that the kernel killed; without one the same again.

        Whatever took the memory may be gone by now, so this is no reason to give up.
        """
        try:
            following = self.smaller(plan, dead.run_id)
        except OutOfMemory as error:
            log.warning(
                "%s was killed for its memory and goes on with the same plan: %s",
                dead.name, error, extra=MEMORY,
            )  # fmt: skip
            return plan
        self.session.say(
            f"  {dead.name} was killed for its memory (run {dead.run_id}); it starts again with "
            f"{_described(following)}"
        )
        return following

    def attempt(self, plan: ComputePlan) -> cell_run.Trained:
        """Open a child run, train or take the finished local result, and store all of it."""
        from minivess.compute.reporting import forecast, peak_memory
        from minivess.training import trainer

        session, family, cell, spec = self.session, self.family, self.cell, self.spec(plan)
        # A cell that nothing validates is no fold of a grid.
        kind = names.CELL if cell.fold.val else names.REFIT
        # MLflow shows a note as Markdown, which would take the asterisks of a formula away.
        note = (
            f"{spec.model}, `{spec.loss.formula}`, fold {cell.fold.index}: "
            f"{len(cell.fold.train)} volumes train, {len(cell.fold.val)} validate"
        )
        with session.run(
            kind, f"{family.name}_fold{cell.fold.index}", cell.key, note, cell.ingredients,
            dataset=self.ground.profile.dataset, parent=self.parent, tags=self.tags(plan),
        ) as run:  # fmt: skip
            cell_run.describe(session, self.ground, (family, run), plan, cell=cell)
            cost = self.ground.costs.get(spec.model)
            if cost is not None:
                epochs = session.config.training.max_epochs
                run.metrics(forecast.forecast_metrics(cost, epochs), step=0)
            fresh = trainer.complete(self.folder, cell.key) is None
            peak_memory.reset_peak(plan.device)
            try:
                with cell_run.told(
                    session, (family, cell), run, self.folder, watch=self.ground.watch
                ) as tell:
                    result = trainer.train_cell(
                        spec,
                        plan,
                        session.config,
                        self.ground.cases,
                        folder=self.folder,
                        tell=tell,
                        labels=session.home.skeletons,
                    )
            except OutOfMemory as error:
                self.step_down(run, plan, error)
                raise
            cell_run.publish(run, self.folder, spec, result)
            actual = forecast.actual_metrics(result, plan, self.folder, trained=fresh)
            run.metrics(actual, step=0)
        return run.run_id, result

    def step_down(self, run: Run, plan: ComputePlan, error: OutOfMemory) -> None:
        """Store the next plan with the cell, and say so in the run that ends.

        Raises:
            OutOfMemory: there is no smaller plan.
        """
        following = self.smaller(plan, run.run_id)
        what = _described(following)
        log.warning("%s The cell starts again with %s.", error.problem, what, extra=MEMORY)
        self.session.say(f"  {run.name} ran out of memory; it starts again with {what}")
        run.tags({names.NEXT_PLAN: what})
        run.json(following.model_dump(mode="json"), names.NEXT_PLAN_ARTIFACT)

    def smaller(self, plan: ComputePlan, after_run: str) -> ComputePlan:
        """The plan one step below, stored with the emptied cell, which begins anew."""
        following = grounds.smaller(
            self.session, self.ground, self.family, plan, n_train=len(self.cell.fold.train)
        )
        return self.open(following.replace(after_run=after_run), resume=False)

    def spec(self, plan: ComputePlan) -> CellSpec:
        """Everything that decides the weights, with the patch of this plan."""
        asked = self.ground.spec(self.session, self.family, self.cell)
        return asked.replace(window=asked.window.replace(patch_size=plan.patch_size))

    def tags(self, plan: ComputePlan) -> dict[str, str]:
        """What MLflow's page filters child runs by; a restart names the run before it."""
        from minivess.training import continuation

        training = self.session.config.training
        more = {names.RESTART_OF: plan.after_run} if plan.after_run else {}
        if training.extends is not None:
            more[names.EXTENSION] = continuation.meaning(training)
        fold = {"fold_id": str(self.cell.fold.index)}
        return cell_run.tags(self.ground, self.family) | fold | more


def _described(plan: ComputePlan) -> str:
    from minivess.compute.out_of_memory import described

    return described(plan)
