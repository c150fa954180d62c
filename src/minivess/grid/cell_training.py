"""Train one cell or reuse it; after out of memory, train it again with a smaller plan."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from minivess import files, home, names
from minivess.compute import judging
from minivess.compute.out_of_memory import described, release
from minivess.compute.reporting import forecast, peak_memory
from minivess.contracts import CellResult, CellSpec, ComputePlan, RunRecord
from minivess.errors import OutOfMemory
from minivess.grid import cell_run, initial_weights
from minivess.grid.context import CellContext
from minivess.grid.lease import Holder, Leases
from minivess.runtime import liveness
from minivess.tracking.run.run import Run
from minivess.training.cell_folder import complete, open_cell, stored_plan

if TYPE_CHECKING:
    from minivess.training.continuation import FinishedTraining

log = logging.getLogger(__name__)
MEMORY = {"category": "memory"}


def train_cell(context: CellContext) -> cell_run.Trained:
    """The result of one cell: reused from MLflow, or trained in its folder."""
    session, cell = context.session, context.cell
    found = cell_run.reusable(session, cell)
    if found is not None:
        session.reuse(context.title, found[0])
        session.grid_progress.expect(-1)
        return found
    lock = context.folder.with_suffix(".lock")
    held = home.lock(lock, what=f"training {context.title}", wait=True)
    with held, leased(context) as confirm:
        # Another process may have trained it while it held the lock or the lease.
        done = cell_run.reusable(session, cell)
        if done is not None:
            return done
        with context.grid.own_gpu(context.family):
            return CellTraining(context, confirm).train()


@contextmanager
def leased(context: CellContext) -> Iterator[Callable[[], None]]:
    """Hold the lease on a cell of a work pool; gives a function that lets the store confirm it."""
    session = context.session
    if session.config.training.deployment is None:
        yield lambda: None
        return

    def waits(holder: Holder) -> None:
        where = f"process {holder[liveness.PID]} on {holder[liveness.HOST]}"
        session.print(f"  {context.title} waits for {where}, which trains it")

    leases = Leases(session.store, str(context.grid.profile.run_id))
    with leases.taken(context.cell.key, waits) as confirm:
        yield confirm


@dataclass(frozen=True)
class CellTraining:
    """The training of one cell; the plan stored in its folder decides.

    Args:
        confirm: returns once it is sure that no other process trains the cell.
    """

    context: CellContext
    confirm: Callable[[], None]

    def train(self) -> cell_run.Trained:
        """Attempt the cell until it is complete or no smaller plan is left.

        Raises:
            OutOfMemory: the smallest plan that may be used takes too much.
        """
        from minivess.training import distributed

        plan = self.first_plan()
        while True:
            try:
                return self.attempt(plan)
            except OutOfMemory:
                following = self.stored_plan()
                if following is None or following.number == plan.number or distributed.size() > 1:
                    # Other processes wait in the middle of a step; only a new start frees them.
                    raise
            plan = following
            release()

    def stored_plan(self) -> ComputePlan | None:
        """The plan in the cell's folder; None before the first start."""
        return stored_plan(self.context.folder, self.context.cell.key)

    def first_plan(self) -> ComputePlan:
        """The plan that the cell resumes with, or one smaller after an out-of-memory kill."""
        context, cell, config = self.context, self.context.cell, self.context.session.config
        resume = config.training.retrain != "always"
        # A cell that resumes keeps the plan that it was started with, its patch included.
        self.fetch(resume=resume)
        shared = context.grid.model(context.family).plan
        fresh = judging.for_fold(shared, config, len(cell.fold.train))
        shorter = self.shorter()
        if shorter is not None and not (resume and self.stored_plan()):
            fresh = shorter.plan(fresh).replace(after_run=None)
        plan = self.open(fresh, resume=resume)
        dead = context.session.ask(lambda store: store.last(cell.key, experiment=config.experiment))
        if (
            dead is None
            or not resume
            or dead.tags.get(names.ERROR_TYPE) != names.OUT_OF_MEMORY_KILL
            or plan.after_run == dead.run_id
            or complete(context.folder, cell.key) is not None
        ):
            return plan
        return self.after_kill(plan, dead)

    def fetch(self, *, resume: bool) -> None:
        """Get plan and checkpoints that an attempt on another machine left in the store."""
        session, folder, cell = self.context.session, self.context.folder, self.context.cell
        if not resume or not session.config.training.deployment or (folder / names.LAST).exists():
            return
        last = session.store.last(cell.key, experiment=session.config.experiment)
        held = session.store.artifacts(last.run_id, "checkpoints") if last else {}
        if last is None or f"checkpoints/{names.LAST}" not in held:
            return
        stored = session.store.read_json(last.run_id, names.PLAN_ARTIFACT)
        plan = ComputePlan.model_validate(stored)
        open_cell(folder, self.spec(plan), plan, resume=False)
        # The last one decides whether there is something to resume.
        for path in sorted(held, key=lambda path: path.endswith(names.LAST)):
            session.store.download(last.run_id, path, folder)
        session.print(f"  {self.context.title} takes over what run {last.run_id} left")

    def shorter(self) -> FinishedTraining | None:
        """The finished shorter training that `training.extends` names."""
        from minivess.training.continuation import FinishedTraining

        epochs = self.context.session.config.training.extends
        if epochs is None:
            return None
        key = self.context.cell.shorter(epochs)
        return FinishedTraining(self.context.session.home.cells / key, key, epochs)

    def open(self, plan: ComputePlan, *, resume: bool) -> ComputePlan:
        """Open the cell's folder at epoch 0 or where a shorter training ended; returns its plan."""
        from minivess.training.continuation import describe

        context = self.context
        plan = open_cell(context.folder, self.spec(plan), plan, resume=resume)
        weights = initial_weights.fetch(context.session, context.grid.model(context.family).network)
        if weights is not None:
            files.copy(weights, context.folder / names.INITIAL)
        shorter = self.shorter()
        if shorter is not None and shorter.begin(context.folder, context.cell.key):
            context.session.print(f"  {context.title} {describe(context.session.config.training)}")
        return plan

    def after_kill(self, plan: ComputePlan, dead: RunRecord) -> ComputePlan:
        """A smaller plan than the one that the kernel killed; without one the same again.

        Whatever took the memory may be gone by now, so this is no reason to give up.
        """
        try:
            following = self.smaller(plan, dead.run_id)
        except OutOfMemory as error:
            log.warning(
                "%s was killed for its memory and resumes with the same plan: %s",
                dead.name, error, extra=MEMORY,
            )  # fmt: skip
            return plan
        self.context.session.print(
            f"  {dead.name} was killed for its memory (run {dead.run_id}); it starts again with "
            f"{described(following)}"
        )
        return following

    def attempt(self, plan: ComputePlan) -> cell_run.Trained:
        """Open a child run, train or take the finished local result, and store all of it."""
        context, spec = self.context, self.spec(plan)
        session, grid, family, cell = context.session, context.grid, context.family, context.cell
        # A cell without validation volumes is no fold of a grid.
        kind = names.CELL if cell.fold.val else names.REFIT
        # MLflow shows a note as Markdown, which would take the asterisks of a formula away.
        note = (
            f"{spec.model}, `{spec.loss.formula}`, fold {cell.fold.index}: "
            f"{len(cell.fold.train)} volumes train, {len(cell.fold.val)} validate"
        )
        with session.run(
            kind, f"{family.name}_fold{cell.fold.index}", cell.key, note, cell.ingredients,
            dataset=grid.profile.dataset, parent=context.run, tags=self.tags(plan),
        ) as run:  # fmt: skip
            cell_run.describe(grid, family, run, plan=plan, cell=cell)
            cost = grid.model(family).cost
            if cost is not None:
                epochs = session.config.training.max_epochs
                run.metrics(forecast.forecast_metrics(cost, epochs), step=0)
            fresh = complete(context.folder, cell.key) is None
            result = self.train_into(run, plan, spec)
            self.confirm()
            cell_run.publish(run, context.folder, spec, result)
            actual = forecast.actual_metrics(result, plan, context.folder, trained=fresh)
            run.metrics(actual, step=0)
        return run.run_id, result

    def train_into(self, run: Run, plan: ComputePlan, spec: CellSpec) -> CellResult:
        """Train the cell in its folder, reporting to `run`; out of memory, store a smaller plan.

        Raises:
            OutOfMemory: memory ran out.
        """
        from minivess.training import trainer

        context = self.context
        peak_memory.reset_peak(plan.device)
        try:
            with cell_run.callbacks(context, run) as callbacks:
                return trainer.train_cell(
                    spec,
                    plan,
                    context.session.config,
                    context.grid.cases,
                    folder=context.folder,
                    callbacks=callbacks,
                    labels=context.session.home.skeletons,
                )
        except OutOfMemory as error:
            self.step_down(run, plan, error)
            raise

    def step_down(self, run: Run, plan: ComputePlan, error: OutOfMemory) -> None:
        """Store the next plan with the cell, and note it in the run that ends.

        Raises:
            OutOfMemory: there is no smaller plan.
        """
        following = self.smaller(plan, run.run_id)
        what = described(following)
        log.warning("%s The cell starts again with %s.", error.problem, what, extra=MEMORY)
        self.context.session.print(
            f"  {run.name} ran out of memory; it starts again with {what}", warning="memory"
        )
        run.tags({names.NEXT_PLAN: what})
        run.json(following.model_dump(mode="json"), names.NEXT_PLAN_ARTIFACT)

    def smaller(self, plan: ComputePlan, after_run: str) -> ComputePlan:
        """The plan one step below, stored with the emptied cell, which starts at epoch 0."""
        context = self.context
        following = context.grid.smaller_plan(
            context.family, plan, n_train=len(context.cell.fold.train)
        )
        return self.open(following.replace(after_run=after_run), resume=False)

    def spec(self, plan: ComputePlan) -> CellSpec:
        """Everything that decides the weights, with the patch of this plan."""
        asked = self.context.grid.spec(self.context.family, self.context.cell)
        return asked.replace(window=asked.window.replace(patch_size=plan.patch_size))

    def tags(self, plan: ComputePlan) -> dict[str, str]:
        """Tags that MLflow's page filters child runs by; a restart names the run before it."""
        from minivess.training import continuation

        training = self.context.session.config.training
        more = {names.RESTART_OF: plan.after_run} if plan.after_run else {}
        if training.extends is not None:
            more[names.EXTENSION] = continuation.describe(training)
        fold = {"fold_id": str(self.context.cell.fold.index)}
        return cell_run.tags(self.context.grid, self.context.family) | fold | more
