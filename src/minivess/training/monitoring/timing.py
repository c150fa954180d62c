"""Measure how a training spends its time: shares of wall time, processor time of threads."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

STEPPING, PREDICTING, JUDGING = "steps", "prediction", "metrics"
DRAWING, SAVING, REPORTING = "figures", "checkpoints", "tracking"
PARTS = (STEPPING, PREDICTING, JUDGING, DRAWING, SAVING, REPORTING)
BESIDE = "metrics_beside"
"""Processor time that metrics took in threads of their own, while training went on."""

Laps = dict[str, float]


class Clock:
    """Seconds that the training loop spent on each of `PARTS` since the last lap."""

    def __init__(self) -> None:
        self._seconds: Laps = {}

    @contextmanager
    def on(self, part: str) -> Iterator[None]:
        """Count the block to a part."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.add(part, time.perf_counter() - begun)

    def add(self, part: str, seconds: float) -> None:
        """Count seconds that were measured elsewhere."""
        self._seconds[part] = self._seconds.get(part, 0.0) + seconds

    def lap(self, before: Laps) -> Laps:
        """The seconds so far on top of those before; counting begins anew."""
        seconds, self._seconds = self._seconds, {}
        return {
            part: before.get(part, 0.0) + seconds.get(part, 0.0) for part in {**before, **seconds}
        }


def total(history: Sequence[dict[str, Any]]) -> float:
    """Wall seconds of all epochs, with what was judged before and after them."""
    laps: list[Laps] = [entry["spent"] for entry in history]
    return sum(lap.get(part, 0.0) for lap in laps for part in PARTS)


def shares(history: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Share of each part in the wall time of all epochs; `metrics_beside` comes on top of it."""
    laps = [entry["spent"] for entry in history]
    summed = {part: sum(lap.get(part, 0.0) for lap in laps) for part in (*PARTS, BESIDE)}
    every = total(history)
    return {part: seconds / every for part, seconds in summed.items()}
