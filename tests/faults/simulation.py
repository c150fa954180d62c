"""Random schedules of programs that write runs, die, recover and reach the store only at times.

    python -m tests.faults.simulation 1 1000      seeds 1 to 1000; prints what breaks a law

The journal, its uploader and the settling of dead runs are the product's own; the store, the clock
and the life of processes are simulated, so that a schedule takes milliseconds and a seed repeats.
A failing schedule is shortened before it is printed.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import random
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

from minivess import names
from minivess.errors import StoreUnreachable
from minivess.home import Home, open_home
from minivess.runtime import liveness, oom
from minivess.tracking.journal.journal import Journal
from minivess.tracking.journal.uploader import PendingUpload, Uploader
from minivess.tracking.run.dead_runs import settle_runs
from minivess.tracking.run.recorder import RunRecorder
from minivess.tracking.run.run_lifecycle import opening_operation
from minivess.tracking.store.store import Store
from tests.faults.laws import Stored, Written, broken
from tests.faults.memory_store import MemoryClient, MemoryStore

ACTIONS = {
    "start": 3, "begin": 6, "metrics": 20, "param": 4, "file": 6, "sync": 8, "turn": 12,
    "close": 5, "kill": 3, "power": 1, "settle": 4, "cut": 3, "join": 5, "deliver": 6,
    "clock": 3,
}  # fmt: skip
"""What may happen, and how often in comparison."""
FATES = {"done": 12, "refused": 2, "lost": 2, "late": 1, "twice": 1}
STEPS, PROCESSES = 60, 3
Step = tuple[str, int]
"""An action, and the seed of whatever it draws."""


class Clock:
    """The time of a simulation: seconds that pass, and a wall clock that is set at times."""

    def __init__(self) -> None:
        self.passed = 1_000.0
        self.offset = self.true_offset = time.time() - self.passed

    def monotonic(self) -> float:
        """Seconds since some moment."""
        self.passed += 1e-4
        return self.passed

    def time(self) -> float:
        """Seconds since 1970, as far as anybody knows."""
        return self.monotonic() + self.offset

    def time_ns(self) -> int:
        """As `time`, in nanoseconds."""
        return int(self.time() * 1e9)

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.passed += seconds


class SteppedUploader(Uploader):
    """The product's uploader, which works when the schedule says so instead of in a thread."""

    def __init__(self, store: Store, clock: Clock) -> None:
        super().__init__(store)
        self.clock = clock

    def take(self, journal: Journal) -> PendingUpload:
        """Upload this journal in the turns that come."""
        pending = PendingUpload(self.store, journal)
        self._uploads.append(pending)
        return pending

    def turn(self) -> None:
        """Upload what there is."""
        self._round()

    def _wait(self, over: Callable[[], bool]) -> None:
        while not over():
            self._round()
            self.clock.sleep(1.0)


class SimulatedStore(Store):
    """A store that is there unless its process is cut off."""

    def connect(self) -> None:
        """Fail while cut off."""
        self.unreachable = self.client.away  # type: ignore[attr-defined]
        if self.unreachable:
            raise StoreUnreachable("The store does not answer.", remedy="-")


class Process:
    """One process: its own connection, uploader and runs."""

    def __init__(self, world: World, pid: int) -> None:
        self.pid, self.client = pid, MemoryClient(world.server, world.fate)
        self.store = SimulatedStore("memory:", world.home, "memory:", _client=self.client)  # type: ignore[arg-type]
        self.uploader = self.store.uploader = SteppedUploader(self.store, world.clock)
        self.open: list[tuple[RunRecorder, Written]] = []


class World:
    """A store, some processes, and what each run should become."""

    def __init__(self, folder: Path) -> None:
        self.home: Home = open_home(folder)
        self.clock, self.server, self.draw = Clock(), MemoryStore(), random.Random(0)
        self.processes: list[Process] = []
        self._pids = itertools.count(100)
        self.pids: set[int] = set()
        self.written: list[Written] = []
        self.healed = False

    def fate(self) -> str:
        """What becomes of the next request."""
        if self.healed:
            return "done"
        return self.draw.choices(list(FATES), list(FATES.values()))[0]

    def play(self, schedule: list[Step]) -> list[str]:
        """Let it happen; return the laws that do not hold at its end."""
        with self._simulated():
            for action, seed in schedule:
                self.draw = random.Random(seed)
                self.clock.sleep(self.draw.random())
                getattr(self, f"_{action}")()
            self._heal()
        runs = [self._stored(run) for run in self.server.runs.values() if not run.deleted]
        return [
            sentence
            for written in self.written
            for sentence in broken(written, runs, self.home.journal)
        ]

    @contextlib.contextmanager
    def _simulated(self) -> Iterator[None]:
        def is_gone(tags: Mapping[str, str]) -> bool:
            return int(tags[liveness.PID]) not in self.pids

        clock = self.clock
        ids = random.Random(7)
        with contextlib.ExitStack() as stack:
            for target, name, value in (
                (time, "time", clock.time), (time, "time_ns", clock.time_ns),
                (time, "monotonic", clock.monotonic), (time, "sleep", clock.sleep),
                (liveness, "is_gone", is_gone), (oom, "verdict", lambda tags: (False, {})),
                (uuid, "uuid4", lambda: uuid.UUID(int=ids.getrandbits(128))),
                (Journal, "keep", lambda self, tick: None), (os, "fsync", lambda file: None),
            ):  # fmt: skip
                stack.enter_context(mock.patch.object(target, name, value))
            yield

    # --- what may happen ------------------------------------------------------------------

    def _process(self) -> Process | None:
        return self.draw.choice(self.processes) if self.processes else None

    def _run(self) -> tuple[Process, RunRecorder, Written] | None:
        there = [(p, *run) for p in self.processes for run in p.open]
        return self.draw.choice(there) if there else None

    def _start(self) -> None:
        if len(self.processes) < PROCESSES:
            pid = next(self._pids)
            self.pids.add(pid)
            self.processes.append(Process(self, pid))

    def _begin(self) -> None:
        if process := self._process():
            uid = uuid.uuid4().hex
            tags = {names.UID: uid, names.KIND: names.FAMILY, liveness.PID: str(process.pid)}
            experiment = self.draw.choice(["one", "two"])
            opening = opening_operation(experiment, "tubes", "family", tags)
            written = Written(uid)
            self.written.append(written)
            journal = Journal(self.home.journal, uid)
            process.open.append((RunRecorder(process.store, journal, opening), written))

    def _metrics(self) -> None:
        if found := self._run():
            _, recorder, written = found
            step, value = len(written.metrics), self.draw.randrange(1000) / 8
            recorder.run.metrics({"loss": value}, step)
            written.metrics.append(("loss", step, value))

    def _param(self) -> None:
        if found := self._run():
            _, recorder, written = found
            name = f"p{len(written.params)}"
            recorder.run.params({name: "1"})
            written.params[name] = "1"

    def _file(self) -> None:
        if found := self._run():
            _, recorder, written = found
            to = self.draw.choice(["a.bin", "deep/b.bin"])
            text = "x" * self.draw.randrange(1, 50)
            recorder.run.text(text, to)
            written.files.setdefault(to, []).append(text.encode())

    def _sync(self) -> None:
        if found := self._run():
            found[1].journal.sync()
            found[2].safe = len(found[2].metrics)

    def _turn(self) -> None:
        if process := self._process():
            process.uploader.turn()

    def _close(self) -> None:
        if found := self._run():
            process, recorder, written = found
            process.open.remove((recorder, written))
            written.ended = self.draw.choice(["FINISHED", "FAILED"])
            recorder.close(written.ended, {})

    def _kill(self) -> None:
        """Kill a process: what it wrote is with the kernel, and reaches the disk."""
        if process := self._process():
            self._end(process)
            for _, written in process.open:
                written.safe = len(written.metrics)

    def _power(self) -> None:
        """The machine stops: what no disk has confirmed is lost, halves of lines stay."""
        for process in list(self.processes):
            sizes = {written.uid: recorder.journal.size for recorder, written in process.open}
            self._end(process)
            for recorder, written in process.open:
                path = recorder.journal.path
                lines = path.read_bytes().splitlines(keepends=True)
                kept = _safe_length(lines, written)
                size = self.draw.randint(kept, sizes[written.uid])
                with path.open("r+b") as file:
                    file.truncate(size)

    def _end(self, process: Process) -> None:
        self.processes.remove(process)
        self.pids.discard(process.pid)
        for pending in process.uploader.pending():
            pending.journal.release()

    def _settle(self) -> None:
        if process := self._process():
            with contextlib.suppress(StoreUnreachable):
                settle_runs(process.store)

    def _cut(self) -> None:
        if process := self._process():
            process.client.away = True

    def _join(self) -> None:
        if process := self._process():
            process.client.away = False

    def _deliver(self) -> None:
        if self.server.late:
            self.server.deliver(self.draw.randrange(len(self.server.late)))

    def _clock(self) -> None:
        self.clock.offset += self.draw.choice([-86_400.0, -1.0, 1.0, 86_400.0])

    def _heal(self) -> None:
        """Whatever is on its way arrives, everybody dies, and the next commands settle."""
        self.healed, self.clock.offset = True, self.clock.true_offset
        for process in list(self.processes):
            for _, written in process.open:
                written.safe = len(written.metrics)
            self._end(process)
        while self.server.late:
            self.server.deliver(0)
        for _ in range(2):
            self.clock.sleep(100.0)
            self.processes.clear()
            self._start()
            settle_runs(self.processes[0].store)

    def _stored(self, run: Any) -> Stored:
        rows = sorted(run.metrics, key=lambda row: run.metrics[row])
        metrics = [(name, step, value) for name, _, step, value in rows]
        own = {to: content for to, content in run.files.items() if to.endswith(".bin")}
        return Stored(run.tags[names.UID], run.status, metrics, run.params, run.tags, own)


def _safe_length(lines: list[bytes], written: Written) -> int:
    """Bytes up to the last metric that the disk has confirmed, or none."""
    metrics = [place for place, line in enumerate(lines) if b'"metrics"' in line]
    last = metrics[written.safe - 1] + 1 if written.safe else 0
    return sum(map(len, lines[:last]))


def schedule_of(seed: int) -> list[Step]:
    """The schedule of a seed."""
    draw = random.Random(seed)
    actions = draw.choices(list(ACTIONS), list(ACTIONS.values()), k=STEPS)
    return [("start", 1), ("begin", 2), *((action, draw.getrandbits(32)) for action in actions)]


def play(schedule: list[Step]) -> list[str]:
    """Play a schedule in a folder of its own; return the laws that it breaks."""
    root = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="minivess-", dir=root) as folder:
        return World(Path(folder) / "home").play(schedule)


def shortened(schedule: list[Step]) -> list[Step]:
    """The schedule without the steps that its failure does not need."""
    place = len(schedule) - 1
    while place >= 0:
        shorter = schedule[:place] + schedule[place + 1 :]
        with contextlib.suppress(Exception):
            if play(shorter):
                schedule = shorter
        place -= 1
    return schedule


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def play_seeds(broken_by: Callable[[int], list[str]], shorter: Callable[[int], object]) -> int:
    """Play the seeds of the range that the command names; print what breaks a law.

    Args:
        broken_by: the laws that the schedule of a seed breaks.
        shorter: a schedule to print beneath them, or None.
    """
    logging.disable()
    first, last = (int(word) for word in sys.argv[1:3])
    wrong = 0
    for seed in range(first, last + 1):
        if found := broken_by(seed):
            wrong += 1
            _say(f"seed {seed}: {'; '.join(found)}")
            if schedule := shorter(seed):
                _say(f"  {schedule}")
    _say(f"{last - first + 1} schedules, {wrong} break a law")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(
        play_seeds(lambda seed: play(schedule_of(seed)), lambda seed: shortened(schedule_of(seed)))
    )
