"""Random schedules of `watch`: data that change, events that are lost or come twice, profiles.

    python -m tests.faults.watching 1 1000      seeds 1 to 1000; prints what breaks a law

Two watchers announce what they find to a door that starts flow 1 for each event. Watching, the
look for finished profiles, locks, journals and senders are the product's own; the folder, the
measuring of volumes, the door, time and the store are simulated (`virtual`).
"""

from __future__ import annotations

import contextlib
import os
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from minivess import config, names
from minivess import home as homes
from minivess.errors import DataError, OrchestrationError, StoreError
from minivess.orchestration import prefect_server
from minivess.orchestration.session import Session
from minivess.runtime.signals import Terminated
from minivess.stages import watch
from minivess.tracking.journal import uploader
from minivess.tracking.journal.journal import Journal
from minivess.tracking.run import environment
from minivess.tracking.run.dead_runs import settle_runs
from minivess.tracking.run.recorder import RunRecorder
from minivess.tracking.run.run_lifecycle import opening_operation
from tests.faults import grid
from tests.faults.grid import Grid, _quiet
from tests.faults.simulation import play_seeds
from tests.faults.virtual import Process, current, sleep

POISON, EVERY_S, STEPS = "poison", 60.0, 12
TROUBLES = {
    "new data": 6, "poison": 1, "kill": 2, "freeze": 2, "cut": 2, "join": 4, "deliver": 4,
    "replay": 3, "door": 2, "watch": 3,
}  # fmt: skip


class Watching(Grid):
    """A folder of data, watchers, and a door that starts profiles on the first machine."""

    def __init__(self, folder: Path, seed: int) -> None:
        super().__init__(folder, seed)
        self.data, self.is_open, self.states = "data0", True, 0
        self.events: list[str] = []
        asked = ["name=tubes", "data.name=tubes", f"data.watch_interval_s={EVERY_S}"]
        self.config = config.load([], asked)

    def play(self) -> list[str]:
        """Let it happen; return the laws that do not hold."""
        ids = self.draw
        environment.collect()  # the first time takes time
        more = (
            (uuid, "uuid4", lambda: uuid.UUID(int=ids.getrandbits(128))),
            (Journal, "keep", lambda self, tick: None), (os, "fsync", lambda file: None),
            (Session, "print", _quiet), (prefect_server, "require", self._require),
            (watch, "scan_dataset", lambda session: SimpleNamespace(key=self.data)),
            (watch, "open_orchestrator", self._door),
        )  # fmt: skip
        with self.simulated(*more):
            self._watch(1)
            for _ in range(STEPS):
                self._trouble()
                self.run(self.now + self.draw.random() * 2 * EVERY_S)
            self._heal()
        return self.wrong + self._broken()

    def _require(self, *_: Any) -> None:
        if not self.is_open or current().process.is_cut:
            raise OrchestrationError("No server listens.", remedy="-")

    @contextlib.contextmanager
    def _door(self, *_: Any) -> Iterator[Any]:
        def emit(event: str, resource: str, payload: dict[str, Any]) -> None:
            sleep(self.draw.random())
            self.events.append(payload["key"])
            self._profile_in_a_process()

        yield SimpleNamespace(emit=emit)

    def _watch(self, machine: int) -> None:
        process = self._process(machine)

        def work() -> None:
            with contextlib.suppress(Terminated):
                watch.watch(self.session(process))

        process.start(work)

    def _profile_in_a_process(self) -> None:
        process = self._process(0)
        process.start(lambda: self._profile(process))

    def _profile(self, process: Process) -> None:
        """Profile the data as they are now, as flow 1 does under the home's lock."""
        session = self.session(process)
        lock = session.home.root / "lock"
        with (
            contextlib.suppress(StoreError, DataError, Terminated),
            homes.lock(lock, what="profile", wait=True),
        ):
            settle_runs(session.store)
            key = self.data
            if session.find(key, experiment=names.PROFILE_EXPERIMENT) is not None:
                return
            tags = {names.UID: uuid.uuid4().hex, names.KIND: names.PROFILE, names.KEY: key}
            opening = opening_operation(names.PROFILE_EXPERIMENT, "tubes", "tubes", tags)
            journal = Journal(session.home.journal, tags[names.UID])
            recorder = RunRecorder(session.store, journal, opening)
            sleep(20 * self.draw.random())
            recorder.close("FAILED" if key.startswith(POISON) else "FINISHED", {})
            uploader.of(session.store).flush_all()

    # --- what may happen ------------------------------------------------------------------

    def _trouble(self) -> None:
        action = self.draw.choices(list(TROUBLES), list(TROUBLES.values()))[0]
        alive = self.alive()
        match action:
            case "new data" | "poison":
                self.states += 1
                name = POISON if action == "poison" else "data"
                self.data = f"{name}{self.states}"
            case "replay" if self.events:
                self._profile_in_a_process()
            case "door":
                self.is_open = not self.is_open
            case "watch":
                self._watch(self.draw.choice([1, 2]))
            case "deliver":
                while self.server.late:
                    self.server.deliver(0)
            case _ if alive:
                self._harm(self.draw.choice(alive), action)

    def _heal(self) -> None:
        """Everything answers again; one watcher goes on, and the last data stay as they are."""
        self.is_healed = self.is_open = True
        while self.server.late:
            self.server.deliver(0)
        for process in self.alive():
            process.is_cut = False
        self.run(self.now + 1000)
        for process in self.alive():
            process.kill()
        self.run(self.now + 10)
        process = self._process(0)
        process.start(lambda: self._settle(process))
        self._watch(1)
        before = len(self.events)
        self.run(self.now + 1000)
        self.states = len(self.events) - before
        for process in self.alive():
            process.kill()
        self.run(self.now + 10)

    def _settle(self, process: Process) -> None:
        settle_runs(self.session(process).store)

    # --- laws -----------------------------------------------------------------------------

    def _broken(self) -> list[str]:
        wrong = []
        runs = [run for run in self.server.runs.values() if not run.deleted]
        for key in {run.tags[names.KEY] for run in runs} | {self.data}:
            ends = [run.status for run in runs if run.tags[names.KEY] == key]
            wanted = 0 if key.startswith(POISON) else 1
            if ends.count("FINISHED") > 1 or (
                key == self.data and ends.count("FINISHED") != wanted
            ):
                wrong.append(f"{key} has profiles {ends}")
            if "RUNNING" in ends:
                wrong.append(f"a profile of {key} still runs")
        if self.states > 1:
            wrong.append(f"{self.states} events for the state {self.data} by one watcher")
        return wrong


def play(seed: int) -> list[str]:
    """Play the schedule of a seed; return the laws that it breaks."""
    return grid.play(seed, Watching)


if __name__ == "__main__":
    sys.exit(play_seeds(play, lambda _: None))
