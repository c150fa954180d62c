"""Random schedules of workers that train the cells of a grid on machines without a common disk.

    python -m tests.faults.grid 1 1000      seeds 1 to 1000; prints what breaks a law

Locks, leases, journals, senders, the settling of dead runs and the look for finished cells are the
product's own. Trainings, machines, time and the store are simulated (`virtual`): processes are
killed, frozen, cut off and started again, clocks jump, requests are lost, late or come twice.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from minivess import config, names
from minivess.config import Environment
from minivess.errors import StoreError, StoreUnreachable
from minivess.grid import cell_run, cell_training, lease
from minivess.home import open_home
from minivess.orchestration.base import Orchestrator
from minivess.orchestration.session import Session
from minivess.runtime import liveness
from minivess.runtime.signals import Terminated
from minivess.tracking.journal import uploader
from minivess.tracking.journal.journal import Journal, parse_lines
from minivess.tracking.run import environment
from minivess.tracking.run.dead_runs import settle_runs
from minivess.tracking.run.recorder import RunRecorder
from minivess.tracking.run.run_lifecycle import opening_operation
from minivess.tracking.store.store import Store
from tests.faults.laws import Stored, Written, broken
from tests.faults.simulation import play_seeds
from tests.faults.virtual import Process, World, current, sleep

CELLS, MACHINES, EPOCHS, EPOCH_S = ("a" * 8, "b" * 8), 3, 4, 20.0
TROUBLES = {
    "start": 8, "kill": 3, "stop": 1, "freeze": 3, "cut": 3, "join": 5, "deliver": 4, "clock": 2,
}  # fmt: skip
STEPS, STEP_S = 14, 40.0
KNOWN_S = 10.0
"""Seconds within which a process has asked for what it goes by; with nothing wrong it takes 5."""
LAST = f"checkpoints/{names.LAST}"


class SimulatedStore(Store):
    """A store that is there unless the process is cut off."""

    def connect(self) -> None:
        """Fail while cut off."""
        self.unreachable = current().process.is_cut
        if self.unreachable:
            raise StoreUnreachable("The store does not answer.", remedy="-")


def trained(key: str, epoch: int) -> float:
    """What an epoch of an undisturbed training of a cell gives."""
    return int(hashlib.sha256(f"{key} {epoch}".encode()).hexdigest()[:4], 16) / 8


class Grid(World):
    """Cells, and the machines whose workers train them."""

    def __init__(self, folder: Path, seed: int) -> None:
        super().__init__(seed)
        self.homes = [open_home(folder / str(machine)) for machine in range(MACHINES)]
        asked = ["name=tubes", "data.name=tubes", "training.deployment=train-cell/local"]
        self.config = config.load([], asked)
        self.disks: list[dict[str, list[float]]] = [{} for _ in self.homes]
        """By machine and cell: the figures of the epochs that its last checkpoint holds."""
        self.written: list[tuple[int, Written]] = []
        self.training: dict[str, set[Process]] = {key: set() for key in CELLS}
        self.wrong: list[str] = []
        self.profile_run = ""

    def play(self) -> list[str]:
        """Let it happen; return the laws that do not hold."""
        ids = self.draw
        more = (
            (uuid, "uuid4", lambda: uuid.UUID(int=ids.getrandbits(128))),
            (Journal, "keep", lambda self, tick: None), (os, "fsync", lambda file: None),
            (cell_training, "CellTraining", SimulatedTraining), (Session, "print", _quiet),
            (cell_run, "read_result", self._read_result),
        )  # fmt: skip
        environment.collect()  # the first time takes time
        with self.simulated(*more):
            self._start_machines()
            for _ in range(STEPS):
                self._trouble()
                self.run(self.now + self.draw.random() * 2 * STEP_S)
            self._heal()
        return self.wrong + self._broken()

    def _start_machines(self) -> None:
        self.is_healed = True
        process = self._process(0)
        process.start(lambda: self._open_profile(process))
        self.run(self.now + 10)
        self.is_healed = False
        for machine in range(2):
            self._start_worker(machine)

    def _open_profile(self, process: Process) -> None:
        place = process.client.create_experiment("tubes")
        self.profile_run = process.client.create_run(place, 1, {}, "profile").info.run_id
        process.client.set_terminated(self.profile_run, "FINISHED", 2)

    # --- workers --------------------------------------------------------------------------

    def _process(self, machine: int) -> Process:
        process = Process(self, machine)
        self.processes.append(process)
        return process

    def _start_worker(self, machine: int) -> None:
        process = self._process(machine)
        order = self.draw.sample(CELLS, len(CELLS))
        process.start(lambda: self._work(process, order))

    def session(self, process: Process) -> Session:
        """The session of a command of a process."""
        home = self.homes[process.machine]
        env = Environment(home=home.root, prefect_disabled=True)
        session = Session(self.config, env, home, Orchestrator(home), json=True)
        client: Any = process.client
        session.__dict__["store"] = SimulatedStore("memory:", home, "memory:", _client=client)
        session.__dict__["grid_progress"] = SimpleNamespace(expect=lambda number: None)
        return session

    def _work(self, process: Process, order: list[str]) -> None:
        """Settle, then train what is left of the grid; an error ends the process."""
        session = self.session(process)
        with contextlib.suppress(StoreError, Terminated):
            settle_runs(session.store)
            for key in order:
                cell_training.train_cell(self._context(session, key))
            uploader.of(session.store).flush_all()

    def _context(self, session: Session, key: str) -> Any:
        cell = SimpleNamespace(key=key, fold=SimpleNamespace(index=CELLS.index(key)))
        profile = SimpleNamespace(run_id=self.profile_run)

        @contextlib.contextmanager
        def own_gpu(family: object) -> Any:
            yield

        return SimpleNamespace(
            session=session, cell=cell, title=key, folder=session.home.cells / key, family=None,
            grid=SimpleNamespace(own_gpu=own_gpu, profile=profile), world=self,
        )  # fmt: skip

    def _read_result(self, session: Session, run_id: str) -> Any:
        record = session.store.get(run_id)
        if record.status != "FINISHED":
            raise StoreError(f"It is {record.status}.", remedy="-")
        return "result"

    def begin(self, process: Process, key: str) -> None:
        """Note that a process trains a cell, although the store has held it finished for long."""
        for run in self.server.runs.values():
            ended = self.ended.get(run.run_id, self.now)
            since = max(process.troubled_at, process.frozen_until, ended) + KNOWN_S
            could_know = not process.is_cut and since < self.now
            if run.tags.get(names.KEY) == key and run.status == "FINISHED" and could_know:
                self.wrong.append(f"{process.pid} trains {key}, finished at {ended:.0f}")

    def begin_epoch(self, process: Process, key: str) -> None:
        """Note that a process trains a cell, and each that goes on although it lost the lease."""
        self.training[key] = {one for one in self.training[key] if not one.is_dead} | {process}
        holder = self._holder(key)
        for other in self.training[key]:
            could_know = not other.is_cut and not other.is_signalled and (
                max(other.troubled_at, other.frozen_until) + 2 * lease.RENEW_S < self.now
            )  # fmt: skip
            if could_know and other.pid != holder:
                self.wrong.append(
                    f"{other.pid} trains {key} at {self.now:.0f}, whose lease {holder} has"
                )

    def _holder(self, key: str) -> int:
        """The process that has taken the lease of a cell last; 0 if none has."""
        params = self.server.runs[self.profile_run].params
        epochs = [int(one.rpartition(".")[2]) for one in params if one.startswith(f"lease.{key}.")]
        return int(json.loads(params[lease.name(key, max(epochs))])[liveness.PID]) if epochs else 0

    # --- what may happen ------------------------------------------------------------------

    def _trouble(self) -> None:
        action = self.draw.choices(list(TROUBLES), list(TROUBLES.values()))[0]
        alive = self.alive()
        if action == "start":
            self._start_worker(self.draw.randrange(MACHINES))
        elif action == "deliver":
            while self.server.late and self.draw.random() < 0.8:
                self.server.deliver(self.draw.randrange(len(self.server.late)))
        elif action == "clock":
            self.offsets[self.draw.randrange(MACHINES)] = self.draw.choice([-86400.0, 0.0, 3600.0])
        elif action == "stop":
            machine = self.draw.randrange(MACHINES)
            for process in alive:
                if process.machine == machine:
                    process.kill()
        elif alive:
            self._harm(self.draw.choice(alive), action)

    def _harm(self, process: Process, action: str) -> None:
        match action:
            case "kill":
                process.kill()
            case "freeze":
                process.freeze(self.draw.choice([5.0, 60.0, 200.0, 400.0]))
            case "cut":
                process.is_cut = True
            case "join" if process.is_cut:
                process.is_cut, process.troubled_at = False, self.now

    def _heal(self) -> None:
        """Cuts end, what is late arrives; workers end, die, and one on each machine starts anew."""
        self.is_healed = True
        self.offsets.clear()
        while self.server.late:
            self.server.deliver(0)
        for process in self.alive():
            if process.is_cut:
                process.is_cut, process.troubled_at = False, self.now
        self.run(self.now + 2000)
        for process in self.alive():
            self.wrong.append(f"process {process.pid} does not end")
            process.kill()
        for _ in range(2):
            for machine in range(MACHINES):
                self._start_worker(machine)
            self.run(self.now + 2000)

    # --- laws -----------------------------------------------------------------------------

    def _broken(self) -> list[str]:
        wrong = [f"process {one.pid} lives on" for one in self.alive()]
        runs = [run for run in self.server.runs.values() if not run.deleted]
        for key in CELLS:
            whole = [(names.PRIMARY, n, trained(key, n)) for n in range(EPOCHS)]
            mine = [run for run in runs if run.tags.get(names.KEY) == key]
            finished = [run for run in mine if run.status == "FINISHED"]
            if not finished:
                wrong.append(f"no finished run of cell {key}")
            wrong += [
                f"run {run.run_id} of {key} holds {values}"
                for run in finished
                if (values := _values(run)) != whole
            ]
            wrong += [
                f"run {run.run_id} is {run.status}" for run in mine if run.status == "RUNNING"
            ]
        stored = [self._stored(run) for run in runs if names.UID in run.tags]
        for machine, written in self.written:
            wrong += broken(written, stored, self.homes[machine].journal)
        return wrong

    def _stored(self, run: Any) -> Stored:
        files = {to: content for to, content in run.files.items() if to == LAST}
        return Stored(run.tags[names.UID], run.status, _values(run), run.params, run.tags, files)


def _values(run: Any) -> list[tuple[str, int, float]]:
    rows = sorted(run.metrics, key=lambda row: run.metrics[row])
    return [(name, step, value) for name, _, step, value in rows]


def _quiet(session: Session, text: str = "", **_: Any) -> None:
    return


class SimulatedTraining:
    """Stands for `CellTraining`: epochs that take time, checkpoints, and one run."""

    def __init__(self, context: Any, confirm: Callable[[], None]) -> None:
        self.context, self.confirm, self.world = context, confirm, context.world
        self.process = current().process

    def train(self) -> Any:
        """Train in a run, as `CellTraining.attempt` and `mlflow_run` do."""
        session, key, uid = self.context.session, self.context.cell.key, uuid.uuid4().hex
        figures = self._fetch(session, key)
        self.world.begin(self.process, key)
        tags = {names.UID: uid, names.KIND: names.CELL, names.KEY: key}
        opening = opening_operation("tubes", "tubes", key, tags)
        journal, written = Journal(session.home.journal, uid), Written(uid)
        self.world.written.append((self.process.machine, written))
        status = "KILLED"
        try:
            recorder = RunRecorder(session.store, journal, opening)
            try:
                try:
                    self._epochs(recorder, written, figures)
                finally:
                    self.world.training[key].discard(self.process)
                self.confirm()
            except Terminated:
                recorder.close(status, {})
                raise
            status = "FINISHED"
            recorder.close(status, {})
        finally:
            written.safe = len(written.metrics)
            written.ended = _ended(journal.path, status)
        return recorder.run.run_id, "result"

    def _fetch(self, session: Session, key: str) -> list[float]:
        """The figures of the checkpoint on this disk, else of the one in the store."""
        mine = self.world.disks[self.process.machine]
        if key not in mine:
            last = session.store.last(key, experiment="tubes")
            held = session.store.artifacts(last.run_id) if last else {}
            mine[key] = session.store.read_json(last.run_id, LAST) if last and LAST in held else []
        return mine[key]

    def _epochs(self, recorder: RunRecorder, written: Written, figures: list[float]) -> None:
        """Repeat the figures of the checkpoint, then train on; send each checkpoint."""
        key, figures = self.context.cell.key, figures[:EPOCHS]
        for epoch in range(EPOCHS):
            if epoch >= len(figures):
                self.world.begin_epoch(self.process, key)
                sleep(EPOCH_S * self.world.draw.random())
                self.world.begin_epoch(self.process, key)
                figures = [*figures, trained(key, epoch)]
                self.world.disks[self.process.machine][key] = figures
            recorder.run.metrics({names.PRIMARY: figures[epoch]}, epoch)
            written.metrics.append((names.PRIMARY, epoch, figures[epoch]))
            content = json.dumps(figures[: epoch + 1])
            recorder.run.text(content, LAST)
            written.files.setdefault(LAST, []).append(content.encode())


def _ended(path: Path, status: str) -> str | None:
    """The status with which a journal was closed; None if it was not."""
    if not path.exists():
        return status
    operations, _ = parse_lines(path.read_bytes())
    last = operations[-1] if operations else {"op": "open"}
    return str(last["status"]) if last["op"] == "close" else None


def play(seed: int, simulation: type[Grid] = Grid) -> list[str]:
    """Play the schedule of a seed in a folder of its own; return the laws that it breaks."""
    root = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="minivess-", dir=root) as folder:
        return simulation(Path(folder), seed).play()


if __name__ == "__main__":
    sys.exit(play_seeds(play, lambda _: None))
