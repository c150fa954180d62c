"""Signs of life of a training: a beat each second, and a word when nothing moves any more."""

from __future__ import annotations

import contextvars
import faulthandler
import logging
import statistics
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

log = logging.getLogger(__name__)

BEAT_S = 1.0
HEARTBEAT_S = 30.0
PATIENCE = 20
"""So many times the usual time of a step, of judging a volume, of saving, whichever is longest."""
SHORTEST_S, UNKNOWN_S = 60.0, 1800.0
"""Least patience, and patience before the first step or volume is done."""
STALL_FILE = "stall.txt"


class Beat(NamedTuple):
    """Where a training is; `left_s` is None before the first epoch is done."""

    epoch: int
    epochs: int
    step: int
    steps: int
    left_s: float | None


OnBeat = Callable[[Beat], None]
OnStall = Callable[[Path | None], None]


class Pulse:
    """A thread beside a training; the training only says `tick` when something is done."""

    def __init__(
        self,
        *,
        on_beat: OnBeat,
        on_stall: OnStall,
        folder: Path,
        patience: float = PATIENCE,
        shortest_s: float = SHORTEST_S,
    ) -> None:
        self.beat = Beat(0, 0, 0, 0, None)
        self._on_beat, self._on_stall = on_beat, on_stall
        self._stack = folder / STALL_FILE
        self._patience, self._shortest_s = patience, shortest_s
        self._usual: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=50))
        self._begun = self._moved = self._told = time.monotonic()
        self._stalled = False
        self._over = threading.Event()
        # In the caller's context: who listens may ask which flow run this is.
        watch = contextvars.copy_context().run
        self._thread = threading.Thread(target=watch, args=(self._watch,), daemon=True)

    @classmethod
    def unheard(cls) -> Self:
        """For steps outside a training: nobody listens, and no thread is started."""
        return cls(on_beat=lambda _: None, on_stall=lambda _: None, folder=Path())

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()

    def begin(self, beat: Beat) -> None:
        """An epoch begins."""
        self.beat, self._begun = beat, time.monotonic()

    def since_s(self) -> float:
        """Seconds since the epoch began."""
        return time.monotonic() - self._begun

    def now(self) -> Beat:
        """Where the training is; what was left when the epoch began is counted down."""
        left_s = self.beat.left_s
        passed = left_s and max(0.0, left_s - self.since_s())
        return self.beat._replace(left_s=passed)

    def tick(self, what: str) -> None:
        """One step, one volume, one save is done."""
        now = time.monotonic()
        self._usual[what].append(now - self._moved)
        self._moved = now

    def step(self, step: int) -> None:
        """A step of the epoch is done."""
        self.beat = self.beat._replace(step=step)
        self.tick("step")

    def limit_s(self) -> float:
        """Seconds without a tick that count as a stall."""
        medians = [statistics.median(times) for times in list(self._usual.values())]
        return max(self._shortest_s, self._patience * max(medians)) if medians else UNKNOWN_S

    def _watch(self) -> None:
        while not self._over.wait(min(BEAT_S, self._shortest_s / 4)):
            self._look()
            self._on_beat(self.now())
            if time.monotonic() - self._told >= HEARTBEAT_S:
                self._told = time.monotonic()
                log.info("Alive: %s", described(self.now()))

    def _look(self) -> None:
        still, limit = time.monotonic() - self._moved, self.limit_s()
        if self._stalled and still <= limit:
            self._stalled = False
            log.warning("The training goes on after a stall: %s.", described(self.beat))
            self._on_stall(None)
        elif not self._stalled and still > limit:
            self._stalled = True
            with self._stack.open("a", encoding="utf-8") as stream:
                stream.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {described(self.beat)}\n")
                stream.flush()
                faulthandler.dump_traceback(stream, all_threads=True)
            log.warning(
                "Nothing has moved for %.0f s, where %.0f s are much: %s. What each thread does "
                "stands in %s.", still, limit, described(self.beat), self._stack,
            )  # fmt: skip
            self._on_stall(self._stack)


def described(beat: Beat) -> str:
    """`epoch 3/100, step 12/40, about 14 min left`."""
    text = f"epoch {beat.epoch + 1}/{beat.epochs}, step {beat.step}/{beat.steps}"
    return text if beat.left_s is None else f"{text}, about {duration(beat.left_s)} left"


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
