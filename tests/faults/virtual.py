"""Processes on machines in virtual time: their threads, sleeps, clocks, signals and deaths.

Each thread of each process is a greenlet; where one sleeps, waits or asks the store, the others go
on. What the product imports as `threading`, `signal`, `os` and `time` is replaced by what stands
here, so that a schedule takes milliseconds and a seed repeats.
"""

from __future__ import annotations

import contextlib
import fcntl
import heapq
import itertools
import random
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import greenlet

from minivess.runtime import liveness
from minivess.tracking.journal.journal import Journal
from tests.faults.memory_store import Death, MemoryClient, MemoryStore

FATES = {"done": 60, "refused": 1, "lost": 1, "late": 1, "twice": 1}
OPEN = Journal.__init__
POLL_S = 3.0
"""Seconds between looks at something that another thread changes."""


class Process:
    """A process of a machine; its first thread is the one that signals interrupt."""

    def __init__(self, world: World, machine: int) -> None:
        self.world, self.machine, self.pid = world, machine, next(world.pids)
        self.client = PacedClient(world, self)
        self.threads: list[Thread] = []
        self.journals: list[Journal] = []
        self.is_dead, self.frozen_until, self.is_cut = False, 0.0, False
        self.troubled_at = -1e9
        """When it was last frozen or cut off."""
        self.handler: Any = signal.SIG_IGN
        self.is_signalled = False

    def start(self, work: Callable[[], None]) -> None:
        """Run it in the first thread; the process ends with it."""

        def main() -> None:
            with contextlib.suppress(Death):
                work()
            self.kill()
            for journal in self.journals:
                journal.release()

        Thread(main, process=self).start()

    def kill(self) -> None:
        """Let each of its threads die where it stands."""
        self.is_dead = True
        for thread in self.threads:
            self.world.wake(thread)

    def freeze(self, seconds: float) -> None:
        """Stand still for some time."""
        until = max(self.frozen_until, self.world.now + seconds)
        self.frozen_until = self.troubled_at = until


class Thread:
    """As `threading.Thread`."""

    def __init__(
        self, target: Callable[..., Any], args: tuple[Any, ...] = (), *,
        process: Process | None = None, **_: Any,
    ) -> None:  # fmt: skip
        self.process: Process = process or current().process
        self.number: int = next(self.process.world.numbers)
        self.waits_until = 0.0
        self.run = greenlet.greenlet(lambda: self._run(target, args))

    def _run(self, target: Callable[..., Any], args: tuple[Any, ...]) -> None:
        with contextlib.suppress(Death):
            target(*args)

    def start(self) -> None:
        """Let it begin when the others wait."""
        self.process.threads.append(self)
        self.process.world.running[self.run] = self
        self.process.world.wake(self)

    def join(self) -> None:
        """Wait for its end."""
        while not self.run.dead:
            sleep(POLL_S)


class Event:
    """As `threading.Event`."""

    def __init__(self) -> None:
        self.is_over = False

    def set(self) -> None:
        """It happened."""
        self.is_over = True

    def is_set(self) -> bool:
        """Whether it happened."""
        return self.is_over

    def wait(self, seconds: float) -> bool:
        """Wait for it."""
        until = current().process.world.now + seconds
        while not self.is_over and (left := until - current().process.world.now) > 0:
            sleep(min(left, POLL_S))
        return self.is_over


class Condition:
    """As `threading.Condition`; threads here change at waits alone, so nothing is locked."""

    def __enter__(self) -> None:
        return

    def __exit__(self, *_: object) -> None:
        return

    def notify_all(self) -> None:
        """Nothing: those that wait look again soon."""

    def wait(self, seconds: float) -> None:
        """Let the others go on."""
        sleep(seconds)


THREADING = SimpleNamespace(
    Thread=Thread, Event=Event, Condition=Condition, get_ident=lambda: current().number
)


def current() -> Thread:
    """The thread that runs."""
    assert World.current is not None
    return World.current.running[greenlet.getcurrent()]


def sleep(seconds: float) -> None:
    """Let the others go on for so long; here signals and deaths arrive."""
    thread = current()
    process, world = thread.process, thread.process.world
    if process.is_dead:
        raise Death
    world.wake(thread, seconds)
    world.hub.switch()
    if process.is_dead:
        raise Death
    if process.is_signalled and thread is process.threads[0]:
        process.is_signalled = False
        if callable(process.handler):
            process.handler(signal.SIGUSR1, None)


def lock_file(file: Any, how: int) -> None:
    """As `fcntl.flock`, while the other threads go on."""
    while True:
        try:
            return fcntl.flock(file, how | fcntl.LOCK_NB)
        except BlockingIOError:
            if how & fcntl.LOCK_NB:
                raise
        sleep(POLL_S)


def open_journal(journal: Journal, folder: Path, uid: str, *, is_new: bool = True) -> None:
    """As `Journal.__init__`; the kernel closes what the process leaves open."""
    OPEN(journal, folder, uid, is_new=is_new)
    current().process.journals.append(journal)


def set_handler(number: int, handler: Any) -> Any:
    """As `signal.signal`."""
    process = current().process
    before, process.handler = process.handler, handler
    return before


def send_signal(pid: int, number: int) -> None:
    """As `os.kill`, to the process itself."""
    process = current().process
    assert pid == process.pid
    process.is_signalled = True
    process.world.wake(process.threads[0])


class PacedClient(MemoryClient):
    """Takes some time for each request; fails while its process is cut off."""

    def __init__(self, world: World, process: Process) -> None:
        super().__init__(world.server, world.fate)
        self.world, self.process = world, process

    def _reach(self) -> None:
        sleep(self.world.draw.random() * 0.5)
        self.away = self.process.is_cut
        super()._reach()

    def set_terminated(self, run_id: str, status: str, end_time: int) -> None:
        """End a run, and note when the store knew."""
        super().set_terminated(run_id, status, end_time)
        self.world.ended.setdefault(run_id, self.world.now)


class World:
    """A store, machines with processes, and the time that they share."""

    current: World | None = None

    def __init__(self, seed: int) -> None:
        self.draw, self.server = random.Random(seed), MemoryStore()
        self.now, self.start = 1000.0, 1_700_000_000.0
        self.offsets: dict[int, float] = {}
        """By machine: how far its wall clock is wrong."""
        self.pids, self.numbers = itertools.count(100), itertools.count(1)
        self.queue: list[tuple[float, float, int, Thread]] = []
        self.running: dict[greenlet.greenlet, Thread] = {}
        self.processes: list[Process] = []
        self.ended: dict[str, float] = {}
        """By run: when its end was in the store, where its process got to know."""
        self.is_healed = False
        self.hub = greenlet.getcurrent()

    def fate(self) -> str:
        """What becomes of the next request."""
        if self.is_healed:
            return "done"
        return self.draw.choices(list(FATES), list(FATES.values()))[0]

    def wake(self, thread: Thread, after: float = 0.0) -> None:
        """Let a thread go on after some seconds; among those of one moment the seed chooses."""
        thread.waits_until = self.now + after
        entry = (thread.waits_until, self.draw.random(), next(self.numbers), thread)
        heapq.heappush(self.queue, entry)

    def run(self, until: float) -> None:
        """Let all threads run until a moment, or until none is left."""
        self.hub = greenlet.getcurrent()
        while self.queue and self.queue[0][0] <= until:
            at, _, _, thread = heapq.heappop(self.queue)
            process = thread.process
            if thread.run.dead or at != thread.waits_until:
                continue  # it was woken earlier
            self.now = max(self.now, at)
            if process.frozen_until > self.now and not process.is_dead:
                self.wake(thread, process.frozen_until - self.now)
                continue
            thread.run.switch()
        self.now = max(self.now, until)

    def alive(self) -> list[Process]:
        """The processes that have not ended."""
        return [process for process in self.processes if not process.is_dead]

    def wall(self) -> float:
        """The wall clock of the machine whose process runs."""
        thread = self.running.get(greenlet.getcurrent())
        self.now += 1e-5
        wrong = self.offsets.get(thread.process.machine, 0.0) if thread else 0.0
        return self.start + self.now + wrong

    def is_gone(self, tags: Mapping[str, str]) -> bool:
        """As `liveness.is_gone`: known of processes of the same machine alone."""
        if tags[liveness.HOST] != str(current().process.machine):
            return False
        return int(tags[liveness.PID]) not in {process.pid for process in self.alive()}

    @staticmethod
    def identity() -> dict[str, str]:
        """As `liveness.identity`."""
        process = current().process
        return {liveness.HOST: str(process.machine), liveness.PID: str(process.pid)}

    @contextlib.contextmanager
    def simulated(self, *more: tuple[Any, str, Any]) -> Iterator[None]:
        """Replace time, threads, signals and the life of processes by those of this world."""
        from unittest import mock

        from minivess import home
        from minivess.grid import lease
        from minivess.runtime import oom
        from minivess.tracking.journal import uploader

        World.current = self
        signals = SimpleNamespace(
            signal=set_handler, SIGUSR1=signal.SIGUSR1, SIG_IGN=signal.SIG_IGN,
            SIGTERM=signal.SIGTERM,
        )  # fmt: skip
        processes = SimpleNamespace(kill=send_signal, getpid=lambda: current().process.pid)
        locks = SimpleNamespace(
            flock=lock_file, LOCK_EX=fcntl.LOCK_EX, LOCK_NB=fcntl.LOCK_NB, LOCK_SH=fcntl.LOCK_SH
        )
        with contextlib.ExitStack() as stack:
            for target, name, value in (
                (home, "fcntl", locks),
                (time, "time", self.wall), (time, "time_ns", lambda: int(self.wall() * 1e9)),
                (time, "monotonic", lambda: self.now), (time, "sleep", sleep),
                (lease, "threading", THREADING), (uploader, "threading", THREADING),
                (lease, "signal", signals), (lease, "os", processes),
                (uploader, "POLL_S", POLL_S), (liveness, "is_gone", self.is_gone),
                (liveness, "identity", self.identity),
                (Journal, "__init__", open_journal),
                (oom, "verdict", lambda tags: (False, {})), *more,
            ):  # fmt: skip
                stack.enter_context(mock.patch.object(target, name, value))
            yield
