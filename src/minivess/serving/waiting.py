"""The queue of a service: whole uploads wait their turn, as many as a stated time allows."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import TypeVar

SMOOTHING = 0.3
STOPPED: ContextVar[threading.Event] = ContextVar("stopped")
"""Of a request: set when its turn is over, because it is answered or its client is gone."""
AS_JOB: ContextVar[bool] = ContextVar("as_job", default=False)
"""Of a request: whether it is a job, which may take any time."""
Part = TypeVar("Part")


class QueueFull(Exception):  # noqa: N818 (it says what the queue is, not who erred)
    """More is waiting than the limits allow."""


def stoppable(forward: Callable[[Part], Part]) -> Callable[[Part], Part]:
    """Return a network that stops at its next window once the turn of its request is over."""

    def run(part: Part) -> Part:
        if (stopped := STOPPED.get(None)) is not None and stopped.is_set():
            raise InterruptedError("nobody waits for this answer any more")
        return forward(part)

    return run


class Queue:
    """Requests in the order in which their volumes arrived, one at a time in the network.

    Attributes:
        waiting: Requests that wait or run.
        seconds: Seconds that a request takes, of late.
    """

    def __init__(self, most: int, most_s: float) -> None:
        self._turn, self._most, self._most_s = asyncio.Lock(), most, most_s
        self.waiting, self.seconds = 0, 0.0

    @property
    def wait_s(self) -> float:
        """Seconds until a request that comes now has its turn."""
        return self.waiting * self.seconds

    @property
    def retry_s(self) -> int:
        """Seconds for `Retry-After`."""
        return max(1, math.ceil(min(self.wait_s, 2 * self.seconds)))

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for the turn of a request and hold it.

        Raises:
            QueueFull: it would wait for longer than is stated, or too many wait.
        """
        if self.waiting >= self._most or self.wait_s > self._most_s:
            raise QueueFull
        self.waiting += 1
        STOPPED.set(stopped := threading.Event())
        try:
            async with self._turn:
                begun = time.monotonic()
                yield
                took = time.monotonic() - begun
                self.seconds += (SMOOTHING if self.seconds else 1.0) * (took - self.seconds)
        finally:
            stopped.set()
            self.waiting -= 1
