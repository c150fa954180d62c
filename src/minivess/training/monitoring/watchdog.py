"""Heartbeat and stall detection for a training loop."""

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
LEAST_S = 0.1
"""So many times the usual time of a step, of judging a volume, of saving, whichever is longest."""
SHORTEST_S, UNKNOWN_S = 60.0, 1800.0
"""Least patience, and patience before the first step or volume is done."""
STALL_FILE = "stall.txt"


class ProgressEvent(NamedTuple):
    """Where a training is; `left_s` is None before the first epoch is done."""

    epoch: int
    epochs: int
    step: int
    steps: int
    left_s: float | None


OnProgress = Callable[[ProgressEvent], None]
OnStall = Callable[[Path | None], None]


class Heartbeat:
    """A thread that watches a training, which calls `tick` whenever something is done."""

    def __init__(
        self,
        *,
        on_progress: OnProgress,
        on_stall: OnStall,
        folder: Path,
        patience: float = PATIENCE,
        shortest_s: float = SHORTEST_S,
    ) -> None:
        self.progress = ProgressEvent(0, 0, 0, 0, None)
        self._on_progress, self._on_stall = on_progress, on_stall
        self._stack = folder / STALL_FILE
        self._patience, self._shortest_s = patience, shortest_s
        self._usual: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=50))
        self._begun = self._moved = self._logged = time.monotonic()
        self._stalled = False
        self._over = threading.Event()
        # In the caller's context: who listens may ask which flow run this is.
        watch = contextvars.copy_context().run
        self._thread = threading.Thread(target=watch, args=(self._watch,), daemon=True)

    @classmethod
    def silent(cls) -> Self:
        """Make one for steps outside a training, without callbacks and thread."""
        return cls(on_progress=lambda _: None, on_stall=lambda _: None, folder=Path())

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

    def begin(self, progress: ProgressEvent) -> None:
        """Start an epoch."""
        self.progress, self._begun = progress, time.monotonic()

    def since_s(self) -> float:
        """Seconds since the epoch began."""
        return time.monotonic() - self._begun

    def now(self) -> ProgressEvent:
        """Where the training is; what was left when the epoch began is counted down."""
        at = self.progress
        left_s = at.left_s and count_down(at.left_s, at.epochs - at.epoch, self.since_s())
        return at._replace(left_s=left_s)

    def tick(self, what: str) -> None:
        """Record that one step, volume or save (`what`) is done."""
        now = time.monotonic()
        self._usual[what].append(now - self._moved)
        self._moved = now

    def step(self, step: int) -> None:
        """Record that a step of the epoch is done."""
        self.progress = self.progress._replace(step=step)
        self.tick("step")

    def limit_s(self) -> float:
        """Seconds without a tick that count as a stall."""
        medians = [statistics.median(times) for times in list(self._usual.values())]
        return max(self._shortest_s, self._patience * max(medians)) if medians else UNKNOWN_S

    def _watch(self) -> None:
        while not self._over.wait(min(BEAT_S, self._shortest_s / 4)):
            self._detect_stall()
            self._on_progress(self.now())
            if time.monotonic() - self._logged >= HEARTBEAT_S:
                self._logged = time.monotonic()
                log.info("Alive: %s", progress_text(self.now()))

    def _detect_stall(self) -> None:
        still, limit = time.monotonic() - self._moved, self.limit_s()
        if self._stalled and still <= limit:
            self._stalled = False
            log.warning("The training goes on after a stall: %s.", progress_text(self.progress))
            self._on_stall(None)
        elif not self._stalled and still > limit:
            self._stalled = True
            where = progress_text(self.progress)
            with self._stack.open("a", encoding="utf-8") as stream:
                stream.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {where}\n")
                stream.flush()
                faulthandler.dump_traceback(stream, all_threads=True)
            log.warning(
                "Nothing has moved for %.0f s, where %.0f s are much: %s. What each thread does "
                "stands in %s.", still, limit, where, self._stack,
            )  # fmt: skip
            self._on_stall(self._stack)


def progress_text(progress: ProgressEvent) -> str:
    """For example `epoch 3/100, step 12/40, about 14 min left`."""
    epoch, step = f"{progress.epoch + 1}/{progress.epochs}", f"{progress.step}/{progress.steps}"
    left = "" if progress.left_s is None else f", about {duration(progress.left_s)} left"
    return f"epoch {epoch}, step {step}{left}"


def count_down(left_s: float, epochs: int, passed_s: float) -> float:
    """Seconds left `passed_s` after an epoch began with `left_s` for itself and its successors.

    The successors' share stays, and `LEAST_S` of an epoch that takes longer than those before it.
    """
    return max(left_s - passed_s, left_s * (epochs - 1) / epochs, LEAST_S) if epochs else 0.0


def duration(seconds: float) -> str:
    """Seconds as people say them; 0 is only what is over."""
    if 0 < seconds < 1:
        return "<1 s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
