"""Train the cells of a grid in parallel, in processes here or as deployed flows on a work pool.

The scheduler opens the parent runs, hands out orders, and reads results from MLflow. A failed cell
fails its parent run; the other cells continue.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import NamedTuple, Protocol

from minivess import files, names
from minivess.compute import out_of_memory
from minivess.contracts import CellOrder, FamilyRun, RunRecord
from minivess.errors import TrainingError
from minivess.grid import cell_run, family_run
from minivess.grid.context import GridContext
from minivess.grid.families import Cell, Family
from minivess.grid.lease import Leases
from minivess.grid.worker import ANSWER, LocalCell
from minivess.orchestration.base import FlowState, Orchestrator
from minivess.tracking.run.dead_runs import settle_runs
from minivess.tracking.run.run import Run
from minivess.training.cell_folder import complete

POLL_S = 0.2
DEPLOYED_POLL_S = 2.0
LOOK_S = 10.0
RESUMED_AT_MOST = 5
"""How often a cell whose process died starts again on a work pool."""


def is_parallel(grid: GridContext) -> bool:
    """Whether the settings ask for other processes than this one."""
    training = grid.session.config.training
    return (
        training.deployment is not None or training.processes_per_cell > 1 or grid.cells_at_once > 1
    )


def train(grid: GridContext, missing: Sequence[Family]) -> dict[str, FamilyRun]:
    """Train families; returns their records by key.

    Raises:
        TrainingError: cells failed; each is named with its error.
    """
    out_of_memory.release()  # the GPU memory that the probe took is for the cells
    with ExitStack() as stack:
        scheduler = GridScheduler(grid, stack)
        parents = [Parent(grid, family, stack.enter_context(ExitStack())) for family in missing]
        queue = deque(Queued(parent, cell) for parent in parents for cell in parent.family.cells)
        total = len(queue)
        scheduler.run(queue)
    if scheduler.failures:
        raise TrainingError(
            f"{len(scheduler.failures)} of {total} cells failed: {'; '.join(scheduler.failures)}",
            remedy="fix what traceback.txt in their MLflow runs shows, then run the same command: "
            "what is finished is reused",
        )
    return {one.family.key: one.finished for one in parents if one.finished is not None}


@dataclass(eq=False)
class Parent:
    """The parent run of a family, opened with its first cell, and the results of its cells.

    The result of a failed cell is None.
    """

    grid: GridContext
    family: Family
    stack: ExitStack
    results: dict[int, cell_run.Trained | None] = field(default_factory=dict)
    finished: FamilyRun | None = None

    @cached_property
    def run(self) -> Run:
        """The open run."""
        return self.stack.enter_context(family_run.opened(self.grid, self.family))

    def add(self, cell: Cell, result: cell_run.Trained | None) -> None:
        """Note the result of a cell; the last one of the family ends the run."""
        run = self.run
        self.results[cell.fold.index] = result
        if len(self.results) < len(self.family.cells):
            return
        trained = [self.results[one.fold.index] for one in self.family.cells]
        complete = [one for one in trained if one is not None]
        if len(complete) == len(trained):
            self.finished = family_run.finish(self.grid.session, self.family, run, complete)
        self.stack.close()


class Queued(NamedTuple):
    """A cell that waits or trains."""

    parent: Parent
    cell: Cell

    @property
    def title(self) -> str:
        """Its name on screens, for example `dynunet_dice_ce fold 0`."""
        return self.parent.family.title(self.cell)


class RunningCell(Protocol):
    """A cell that trains in another process."""

    def ended(self) -> bool:
        """Whether it has ended, in success or failure."""

    def succeeded(self) -> bool:
        """Whether it ended in success."""

    def stop(self) -> None:
        """End it, if it has not ended, and free what it held."""


@dataclass
class GridScheduler:
    """Starts cells while there is room, and collects their results; `stack` holds what is open."""

    grid: GridContext
    stack: ExitStack
    failures: list[str] = field(default_factory=list)
    resumed: Counter[str] = field(default_factory=Counter)

    @cached_property
    def leases(self) -> Leases:
        """The leases on cells that workers of a pool train."""
        return Leases(self.grid.session.store, str(self.grid.profile.run_id))

    def run(self, queue: deque[Queued]) -> None:
        """Keep as many cells running as allowed, until the queue is empty."""
        session, training = self.grid.session, self.grid.session.config.training
        progress, total = session.orchestrator.progress("grid", "cells ended"), len(queue)
        limit = total if training.deployment else self.grid.cells_at_once
        running: list[tuple[Queued, RunningCell]] = []
        began, reused = time.monotonic(), 0
        while queue or running:
            while queue and len(running) < limit:
                if self.reuse(queue[0]):
                    queue.popleft()
                    reused += 1
                elif started := self.start(queue[0]):
                    running.append((queue.popleft(), started))
                else:
                    break
            for pair in [pair for pair in running if pair[1].ended()]:
                running.remove(pair)
                if self.collect(*pair):
                    ended = total - reused - len(queue) - len(running)
                    took = time.monotonic() - began
                    session.grid_progress.ended(ended, total - reused, took, limit)
                else:
                    queue.appendleft(pair[0])
            progress(1 - (len(queue) + len(running)) / total)
            time.sleep(DEPLOYED_POLL_S if training.deployment else POLL_S)

    def reuse(self, queued: Queued) -> bool:
        """Reuse the result of a cell that was trained before; False if there is none."""
        found = cell_run.reusable(self.grid.session, queued.cell)
        if found is not None:
            self.grid.session.reuse(queued.title, found[0])
            queued.parent.add(queued.cell, found)
        return found is not None

    def start(self, queued: Queued) -> RunningCell | None:
        """Start a cell; None while its GPUs are not free, or a pool's lease cannot be asked for."""
        session, (parent, cell) = self.grid.session, queued
        order = CellOrder(
            settings=session.config.model_dump(mode="json", exclude_unset=True),
            data_profile_run_id=str(self.grid.profile.run_id),
            parent_run_id=parent.run.run_id,
            family=parent.family.name,
            fold=parent.family.cells.index(cell),
            launched_by=session.launched_by,
            json_output=session.json,
            quiet=session.quiet,
        )
        deployment = session.config.training.deployment
        if deployment:
            before = session.ask(lambda _: self.leases.look(cell.key))
            if before is None:
                return None
            title = f"train-cell · {order.family} · fold {order.fold}"
            parameters = {"order": order.model_dump(mode="json")}
            run_id = session.orchestrator.submit(deployment, parameters, title)
            lost = partial(self.leases.is_abandoned, cell.key, since=before.epoch)
            started = RemoteCell(
                session.orchestrator, run_id, lambda: session.ask(lambda _: lost())
            )
            self.stack.callback(started.stop)
            return started
        # Here is the machine that the plan was made for.
        _, plan, cost = self.grid.model(parent.family)
        planned = order.replace(profile=self.grid.profile, plan=plan, cost=cost)
        return LocalCell.start(session, self.grid.hardware, planned, self.stack)

    def collect(self, queued: Queued, cell: RunningCell) -> bool:
        """Take the result or the failure of an ended cell; False if it has to start again."""
        cell.stop()
        found = self.result(queued.cell) if cell.succeeded() else None
        if found is None and not cell.succeeded() and self.is_to_start_again(queued, cell):
            return False
        if found is None:
            self.fail(queued)
        queued.parent.add(queued.cell, found)
        return True

    def is_to_start_again(self, queued: Queued, cell: RunningCell) -> bool:
        """Whether a cell stored a smaller plan, or its process on a work pool died.

        A cell of one process goes on with a smaller plan by itself, one that failed fails again,
        and one that was cancelled is not wanted.
        """
        last = self.last_run(queued.cell)
        if last is not None and last.tags.get(names.PARENT) != queued.parent.run.run_id:
            last = None
        failed = last is not None and last.status == "FAILED"
        if not isinstance(cell, RemoteCell):
            several = self.grid.session.config.training.processes_per_cell > 1
            return several and failed and last is not None and names.NEXT_PLAN in last.tags
        died = cell.state == "crashed" or (cell.state == "failed" and bool(last) and not failed)
        if not died or self.resumed[queued.title] == RESUMED_AT_MOST:
            return False
        self.resumed[queued.title] += 1
        self.grid.session.print(
            f"  {queued.title} lost its process and is sent to the pool again", warning="other"
        )
        return True

    def last_run(self, cell: Cell) -> RunRecord | None:
        """The newest run of a cell, as far as MLflow can be asked."""
        session = self.grid.session
        experiment = session.config.experiment
        return session.ask(lambda store: store.last(cell.key, experiment=experiment))

    def result(self, cell: Cell) -> cell_run.Trained | None:
        """The result of a cell that ended well: in its folder here, else in MLflow."""
        session = self.grid.session
        if not session.config.training.deployment:
            folder = session.home.cells / cell.key
            here = complete(folder, cell.key)
            if here is not None and (folder / ANSWER).is_file():
                return files.read_json(folder / ANSWER)["run_id"], here
        record = session.find(cell.key, experiment=session.config.experiment)
        if record is None:
            return None
        return record.run_id, cell_run.read_result(session, record.run_id)

    def fail(self, queued: Queued) -> None:
        """Note why a cell failed; its parent run will end FAILED."""
        self.grid.session.ask(settle_runs)
        last = self.last_run(queued.cell)
        tags = {} if last is None or last.status == "FINISHED" else last.tags
        kind = tags.get(names.ERROR_TYPE, names.PROCESS_DIED)
        why = tags.get("error_message", "its process ended before its run was opened")
        self.failures.append(f"{queued.title} ({kind}: {why})")
        queued.parent.run.fail(kind, f"fold {queued.cell.fold.index}: {why}")


@dataclass
class RemoteCell:
    """A cell as the flow run of a Prefect deployment; `lost`: whether its holder died."""

    orchestrator: Orchestrator
    run_id: str
    lost: Callable[[], bool | None]
    state: FlowState = "running"
    looked: float = field(default_factory=time.monotonic)

    def ended(self) -> bool:
        """Whether the flow run has ended, or nothing is heard of its worker any more."""
        self.state = self.orchestrator.state(self.run_id)
        if self.state == "running" and self.is_abandoned():
            self.orchestrator.cancel(self.run_id, lost=True)
            self.state = "crashed"
        return self.state != "running"

    def is_abandoned(self) -> bool:
        """Whether it began, and its process is gone or silent; asked at times."""
        if time.monotonic() - self.looked < LOOK_S:
            return False
        self.looked = time.monotonic()
        return bool(self.lost())

    def succeeded(self) -> bool:
        """Whether it ended in success."""
        return self.state == "completed"

    def stop(self) -> None:
        """Cancel it, if it has not ended."""
        if self.state == "running":
            self.orchestrator.cancel(self.run_id)
