"""The queue of a service: whole uploads wait their turn, as many as a stated time allows."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

SMOOTHING = 0.3


class QueueFull(Exception):  # noqa: N818 (it says what the queue is, not who erred)
    """More is waiting than the limits allow."""


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
        try:
            async with self._turn:
                begun = time.monotonic()
                yield
                took = time.monotonic() - begun
                self.seconds += (SMOOTHING if self.seconds else 1.0) * (took - self.seconds)
        finally:
            self.waiting -= 1
