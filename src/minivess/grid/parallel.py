"""A grid whose cells train side by side: in processes here, or as deployed flows on a work pool.

The coordinator opens the parent runs, hands out orders, and reads results from MLflow. A cell that
fails fails its parent; the others go on.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from minivess import files, names
from minivess.contracts import CellOrder, FamilyRun, RunRecord
from minivess.errors import TrainingError
from minivess.grid import cell_run, families, family_run, worker
from minivess.grid.context import Ground
from minivess.orchestration.session import Session

if TYPE_CHECKING:
    from minivess.tracking.run.run import Run

PAUSE_S = 0.2
PATIENCE_S = 2.0
Axes = tuple[families.Family, families.Cell]


def wanted(session: Session, ground: Ground) -> bool:
    """Whether the settings ask for other processes than this one."""
    from minivess.grid import gpu_locks

    training = session.config.training
    return (
        training.deployment is not None
        or training.processes_per_cell > 1
        or gpu_locks.cells_at_once(ground.hardware, training) > 1
    )


def train(
    session: Session, ground: Ground, missing: Sequence[families.Family]
) -> dict[str, FamilyRun]:
    """Train families; returns their records by key.

    Raises:
        TrainingError: cells failed; each is named, with what is known of it.
    """
    from minivess.compute import out_of_memory

    out_of_memory.release()  # what the probe took on the GPU is for the cells
    with ExitStack() as stack:
        work = Work(session, ground, stack)
        work.through(deque((family, cell) for family in missing for cell in family.cells))
    if work.failures:
        raise TrainingError(
            f"{len(work.failures)} of {sum(len(family.cells) for family in missing)} cells failed: "
            + "; ".join(work.failures),
            remedy="mend what traceback.txt in their MLflow runs shows, then the same command: "
            "what is finished is reused",
        )
    return work.finished


class Running(Protocol):
    """A cell that somebody trains."""

    def over(self) -> bool:
        """Whether it has ended, well or not."""

    def well(self) -> bool:
        """Whether it ended as it should."""

    def stop(self) -> None:
        """End it, if it has not, and free what it held."""


@dataclass
class Parent:
    """A parent run that is open, and what has become of its cells; None where one failed."""

    run: Run
    stack: ExitStack
    cells: dict[int, cell_run.Trained | None] = field(default_factory=dict)


@dataclass
class Work:
    """What is going on; `stack` holds every open run and running cell."""

    session: Session
    ground: Ground
    stack: ExitStack
    parents: dict[str, Parent] = field(default_factory=dict)
    finished: dict[str, FamilyRun] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def through(self, waiting: deque[Axes]) -> None:
        """Keep as many cells running as may be, until none is left."""
        from minivess.grid import gpu_locks

        progress, total = self.session.orchestra.progress("grid", "cells ended"), len(waiting)
        training = self.session.config.training
        limit = gpu_locks.cells_at_once(self.ground.hardware, training)
        running: list[tuple[Axes, Running]] = []
        begun, reused = time.monotonic(), 0
        while waiting or running:
            while waiting and (training.deployment or len(running) < limit):
                if self.reused(waiting[0]):
                    waiting.popleft()
                    reused += 1
                    continue
                started = self.start(waiting[0])
                if started is None:
                    break
                running.append((waiting.popleft(), started))
            for axes, cell in [pair for pair in running if pair[1].over()]:
                cell.stop()
                running.remove((axes, cell))
                if cell.well():
                    self.take(axes)
                elif self.again(axes):
                    waiting.appendleft(axes)
                    continue
                else:
                    self.give_up(axes)
                ended = total - reused - len(waiting) - len(running)
                self.session.board.ended(ended, total - reused, time.monotonic() - begun)
            progress(1 - (len(waiting) + len(running)) / total)
            time.sleep(PATIENCE_S if training.deployment else PAUSE_S)

    def reused(self, axes: Axes) -> bool:
        """Whether the cell was trained before and may serve."""
        family, cell = axes
        found = cell_run.reusable(self.session, cell)
        if found is not None:
            self.session.reuse(f"{family.name} fold {cell.fold.index}", found[0])
            self.account(family, cell, found)
        return found is not None

    def start(self, axes: Axes) -> Running | None:
        """Start a cell; None where its GPUs are not free."""
        family, cell = axes
        parent = self.parent(family)
        training = self.session.config.training
        order = CellOrder(
            settings=self.session.config.model_dump(mode="json", exclude_unset=True),
            data_profile_run_id=str(self.ground.profile.run_id),
            parent_run_id=parent.run.run_id,
            family=family.name,
            fold=family.cells.index(cell),
            launched_by=self.session.launched_by,
            json_output=self.session.json,
        )
        if training.deployment:
            deployed = Deployed(self.session, training.deployment, order)
            self.stack.callback(deployed.stop)
            return deployed
        # Here is the machine that the plan was made for.
        model = family.model.name
        planned = order.replace(
            profile=self.ground.profile,
            plan=self.ground.models[model][1],
            cost=self.ground.costs.get(model),
        )
        return Here.start(self.session, self.ground, planned, self.stack)

    def parent(self, family: families.Family) -> Parent:
        """The parent run of a family, opened with its first cell."""
        if family.key not in self.parents:
            own = self.stack.enter_context(ExitStack())
            run = own.enter_context(family_run.opened(self.session, self.ground, family))
            self.parents[family.key] = Parent(run, own)
        return self.parents[family.key]

    def again(self, axes: Axes) -> bool:
        """Whether a cell of several processes ran out of memory and has a smaller plan by now.

        A cell of one process starts again by itself.
        """
        family, cell = axes
        last = self.last(cell)
        several = self.session.config.training.processes_per_cell > 1
        return (
            several
            and last is not None
            and last.status == "FAILED"
            and last.tags.get(names.PARENT) == self.parents[family.key].run.run_id
            and names.NEXT_PLAN in last.tags
        )

    def last(self, cell: families.Cell) -> RunRecord | None:
        """The newest run of a cell, as far as MLflow can be asked."""
        experiment = self.session.config.experiment
        return self.session.ask(lambda store: store.last(cell.key, experiment=experiment))

    def take(self, axes: Axes) -> None:
        """Take what a cell left: here in its folder, else in MLflow."""
        from minivess.training.cell_folder import complete

        family, cell = axes
        folder = self.session.home.cells / cell.key
        here = None
        if not self.session.config.training.deployment:
            here = complete(folder, cell.key)
        if here is not None and (folder / worker.ANSWER).is_file():
            run_id = files.read_json(folder / worker.ANSWER)["run_id"]
            self.account(family, cell, (run_id, here))
            return
        record = self.session.find(cell.key, experiment=self.session.config.experiment)
        if record is None:
            self.give_up(axes)
        else:
            result = cell_run.require_whole(self.session, record.run_id)
            self.account(family, cell, (record.run_id, result))

    def give_up(self, axes: Axes) -> None:
        """Note what is known of a cell that failed; its parent will end FAILED."""
        from minivess.tracking.run.dead_runs import settle

        family, cell = axes
        self.session.ask(settle)
        last = self.last(cell)
        tags = {} if last is None or last.status == "FINISHED" else last.tags
        kind = tags.get(names.ERROR_TYPE, names.PROCESS_DIED)
        why = tags.get("error_message", "its process ended before its run was opened")
        self.failures.append(f"{family.name} fold {cell.fold.index} ({kind}: {why})")
        self.parent(family).run.fail(kind, f"fold {cell.fold.index}: {why}")
        self.account(family, cell, None)

    def account(
        self, family: families.Family, cell: families.Cell, found: cell_run.Trained | None
    ) -> None:
        """Tick a cell off; behind the last one of a family its parent ends."""
        parent = self.parent(family)
        parent.cells[cell.fold.index] = found
        if len(parent.cells) < len(family.cells):
            return
        trained = [parent.cells[cell.fold.index] for cell in family.cells]
        whole = [result for result in trained if result is not None]
        if len(whole) == len(trained):
            self.finished[family.key] = family_run.finish(self.session, family, parent.run, whole)
        parent.stack.close()


class Here:
    """A cell in processes of this machine, with the GPUs that are its own meanwhile."""

    def __init__(self, stack: ExitStack, child: worker.Child) -> None:
        self.stack, self.child = stack, child

    @classmethod
    def start(
        cls, session: Session, ground: Ground, order: CellOrder, outer: ExitStack
    ) -> Here | None:
        """Book, then start; None where too few GPUs are free."""
        from minivess.grid import gpu_locks

        own, count = ExitStack(), session.config.training.processes_per_cell
        gpus = gpu_locks.gpus_for(session.config, ground.hardware, session.env)
        what = f"{order.family} fold {order.fold}"
        mine = gpu_locks.book(session.home.gpus, gpus, count if gpus else 0, own, what=what)
        if mine is None:
            return None
        outer.enter_context(own)
        return cls(
            own,
            own.enter_context(worker.started(order, session.home, processes=count, gpus=mine)),
        )

    def over(self) -> bool:
        """Whether the process has ended."""
        return self.child.poll() is not None

    def well(self) -> bool:
        """Whether it carried out its order."""
        return self.child.returncode == 0

    def stop(self) -> None:
        """End it and free its GPUs."""
        self.stack.close()


class Deployed:
    """A cell as the run of a Prefect deployment."""

    def __init__(self, session: Session, deployment: str, order: CellOrder) -> None:
        self.orchestra = session.orchestra
        self.run_id = self.orchestra.submit(deployment, {"order": order.model_dump(mode="json")})
        self.state = "running"

    def over(self) -> bool:
        """Whether the flow run has ended."""
        self.state = self.orchestra.state(self.run_id)
        return self.state != "running"

    def well(self) -> bool:
        """Whether it carried out its order."""
        return self.state == "completed"

    def stop(self) -> None:
        """Cancel it, if it has not ended."""
        if self.state == "running":
            self.orchestra.cancel(self.run_id)
