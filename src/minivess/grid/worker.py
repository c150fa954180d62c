"""One cell in processes of its own, on GPUs of its own.

`python -m minivess.grid.worker ORDER.json PID` carries out an order and ends when process PID does,
so that a coordinator that was killed leaves nothing running. Under torchrun the first process does
this, and the others take part in its steps.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from minivess import config as configs
from minivess import files, names
from minivess.config import ExperimentConfig
from minivess.contracts import CellOrder, DatasetProfile
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
from minivess.home import Home
from minivess.orchestration import handoff
from minivess.orchestration.session import Session, open_session
from minivess.runtime.entry import guarded, show_logs
from minivess.runtime.processes import Process, process_of
from minivess.tracking.run.run import DirectSink, Run

END_LIMIT_S = 30.0
ANSWER = "answer.json"
"""In the folder of a cell: the run into which it was trained."""
Child = subprocess.Popen[bytes]


# --- whoever wants a cell trained ---------------------------------------------------------


@contextmanager
def started(order: CellOrder, home: Home, *, processes: int, gpus: list[str]) -> Iterator[Child]:
    """The running processes of a cell; on leaving they are ended in order."""
    name = f"{order.parent_run_id}-{order.fold}.order.json"
    file = files.write_text(home.cells / name, order.model_dump_json())
    several = ("torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m")
    words = [sys.executable, "-m", *(several if processes > 1 else ()), "minivess.grid.worker"]
    # A session of its own: Ctrl-C in the terminal reaches us, and we end it in order.
    child = subprocess.Popen(
        [*words, str(file), str(os.getpid())],
        env=configs.child_environment(
            MINIVESS_HOME=str(home.root), CUDA_VISIBLE_DEVICES=",".join(gpus)
        ),
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield child
    finally:
        _end(child)
        file.unlink(missing_ok=True)


def _end(child: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        if child.poll() is not None:
            return
        os.killpg(child.pid, number)
        try:
            child.wait(END_LIMIT_S)
        except subprocess.TimeoutExpired:
            continue


def run(order: CellOrder) -> None:
    """Train a cell in processes on this machine, and wait for it.

    Raises:
        TrainingError: its process failed; its MLflow run holds the error.
    """
    env, config = configs.environment(), settings_of(order)
    with open_session(config, env, lock=False) as session:
        gpus = gpu_locks.gpus_for(config, measure_hardware(session), env)
        count, what = config.training.processes_per_cell, f"{order.family} fold {order.fold}"
        with (
            gpu_locks.locked(session.home.gpus, gpus, count if gpus else 0, what=what) as mine,
            started(order, session.home, processes=count, gpus=mine) as child,
        ):
            code = child.wait()
    if code:
        raise TrainingError(
            f"{what} ended with exit code {code}.",
            remedy="read the lines above, or traceback.txt in its MLflow run",
        )


def settings_of(order: CellOrder) -> ExperimentConfig:
    """The settings of an order."""
    config: ExperimentConfig = configs.validated(ExperimentConfig, order.settings)
    return config


# --- the process itself -------------------------------------------------------------------


def main() -> int:
    """Carry out the order that a file holds."""
    file, starter = sys.argv[1:]
    order = CellOrder.model_validate_json(Path(file).read_text(encoding="utf-8"))

    def work() -> int:
        show_logs(debug=False)
        configs.silence_telemetry()
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
    """Ask this process to end when another one is gone."""

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
    ) as session:
        # Bars of several processes would draw over each other.
        session.board.live = False
        if order.profile is not None:
            session.profiles[order.data_profile_run_id] = order.profile
        profile = handoff.profile_of(session, order.data_profile_run_id)
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
