"""Train one cell in processes of its own, on GPUs of its own.

`python -m minivess.grid.worker ORDER.json PID` carries out an order and ends when process PID does,
so that a killed scheduler leaves nothing running. Under torchrun the first process does this, and
the others take part in its steps.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from minivess import config as configs
from minivess import files, names
from minivess.config import ExperimentConfig
from minivess.contracts import CellOrder, DatasetProfile, Hardware
from minivess.errors import TrainingError
from minivess.grid import cell_training, families, gpu_locks
from minivess.grid.context import (
    CellContext,
    GridContext,
    ModelPlan,
    as_loaded,
    measure_hardware,
    network_for,
    prepare,
    restore,
)
from minivess.orchestration import handoff, slots
from minivess.orchestration.session import Session, open_session
from minivess.runtime.entry import guarded, show_logs
from minivess.runtime.processes import Child, Process, process_of, running
from minivess.tracking.run.run import DirectSink, Run

END_LIMIT_S = 30.0
ANSWER = "answer.json"
"""File in the folder of a cell that names its child run."""


# --- in the process that wants a cell trained ---------------------------------------------


@dataclass
class LocalCell:
    """A cell in processes of this machine; `stack` holds them and the locks of their GPUs."""

    stack: ExitStack
    child: Child

    @classmethod
    def start(
        cls, session: Session, hardware: Hardware, order: CellOrder, outer: ExitStack
    ) -> LocalCell | None:
        """Lock the GPUs, then start; None while too few GPUs are free.

        `outer` ends the cell where `stop` was not called.
        """
        stack, count = ExitStack(), session.config.training.processes_per_cell
        gpus = gpu_locks.gpus_for(session.config, hardware, session.env)
        mine = gpu_locks.try_lock(
            session.home.gpus, gpus, count if gpus else 0, stack, what=title(order)
        )
        if mine is None:
            return None
        outer.enter_context(stack)
        name = f"{order.parent_run_id}-{order.fold}.order.json"
        file = files.write_text(session.home.cells / name, order.model_dump_json())
        stack.callback(file.unlink, missing_ok=True)
        several = ("torch.distributed.run", "--standalone", f"--nproc-per-node={count}", "-m")
        words = [sys.executable, "-m", *(several if count > 1 else ()), "minivess.grid.worker"]
        variables = configs.child_environment(
            MINIVESS_HOME=str(session.home.root), CUDA_VISIBLE_DEVICES=",".join(mine)
        )
        child = running([*words, str(file), str(os.getpid())], variables, limit_s=END_LIMIT_S)
        return cls(stack, stack.enter_context(child))

    def ended(self) -> bool:
        """Whether the process has ended."""
        return self.child.poll() is not None

    def succeeded(self) -> bool:
        """Whether it ended in success."""
        return self.child.returncode == 0

    def stop(self) -> None:
        """End it and free its GPUs."""
        self.stack.close()


def run(order: CellOrder) -> None:
    """Train a cell in processes on this machine, and wait for it.

    Raises:
        TrainingError: its process failed; its MLflow run holds the error.
    """
    asked = settings_of(order)
    with (
        slots.held(asked.training.slots, what=title(order)),
        open_session(asked, configs.environment(), lock=False) as session,
    ):
        hardware = measure_hardware(session)
        with ExitStack() as stack:
            while (cell := LocalCell.start(session, hardware, order, stack)) is None:
                time.sleep(gpu_locks.WAIT_S)
            code = cell.child.wait()
    if code:
        raise TrainingError(
            f"{title(order)} ended with exit code {code}.",
            remedy="read the lines above, or traceback.txt in its MLflow run",
        )


def title(order: CellOrder) -> str:
    """The name of a cell on screens, for example `dynunet_dice_ce fold 0`."""
    return f"{order.family} fold {order.fold}"


def settings_of(order: CellOrder) -> ExperimentConfig:
    """The settings of an order."""
    return configs.validated(ExperimentConfig, order.settings)


# --- in the process that trains it --------------------------------------------------------


def main() -> int:
    """Carry out the order that a file holds."""
    file, starter = sys.argv[1:]
    order = CellOrder.model_validate_json(Path(file).read_text(encoding="utf-8"))

    def work() -> int:
        show_logs(debug=False, quiet=order.quiet)
        configs.calm_libraries()
        end_with(process_of(int(starter)))
        from minivess.training import distributed, trainer

        with distributed.joined() as first:
            if first:
                carry_out(order)
            else:
                trainer.assist()
        return 0

    return guarded(work)


def end_with(starter: Process) -> None:
    """Send this process SIGTERM once the process `starter` is gone."""

    def watch() -> None:
        while starter.alive:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="starter", daemon=True).start()


def carry_out(order: CellOrder) -> None:
    """Train one cell of a grid into a child of the run that the scheduler has opened.

    MLflow may be unreachable meanwhile, so the scheduler's run is not looked up there.
    """
    env = replace(configs.environment(), prefect_disabled=True)
    with open_session(
        settings_of(order),
        env,
        launched_by=order.launched_by,
        lock=False,
        yes=True,
        json=order.json_output,
        quiet=order.quiet,
    ) as session:
        # Bars of several processes would draw over each other.
        session.grid_progress.live = False
        profile = order.profile or handoff.profile_of(session, order.data_profile_run_id)
        grid = families.families(session.config, profile)
        family = next(family for family in grid if family.name == order.family)
        parent = Run(
            DirectSink(session.store, order.parent_run_id),
            order.parent_run_id, uid="", name=order.family, kind=names.FAMILY,
        )  # fmt: skip
        cell = family.cells[order.fold]
        context = CellContext(grid_of(session, order, profile, family), family, cell, parent)
        run_id, _ = cell_training.train_cell(context)
        files.write_json(context.folder / ANSWER, {"run_id": run_id})


def grid_of(
    session: Session, order: CellOrder, profile: DatasetProfile, family: families.Family
) -> GridContext:
    """The data and the plan: the scheduler's where it planned for this machine, else our own."""
    if order.plan is None:
        return replace(prepare(session, profile, [family]), gpus_locked=True)
    network = network_for(family.model, as_loaded(session, profile))
    return GridContext(
        session,
        profile,
        restore(session, profile),
        measure_hardware(session),
        {family.model.name: ModelPlan(network, order.plan, order.cost)},
        gpus_locked=True,
    )


if __name__ == "__main__":
    sys.exit(main())
