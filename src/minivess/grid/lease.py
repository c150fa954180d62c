"""Leases on cells, kept in the store: one process trains a cell, and another takes over a dead one.

MLflow refuses a second value of a param, so of several processes that write the param of an epoch
to the run of the profile exactly one has the cell. It renews a tag; who waits goes by its own
clock, so that clocks that differ do no harm. A holder that others took over ends (`LeaseLost`).
While the store is away nobody can take over, and training goes on.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import NamedTuple

from minivess.contracts import RunRecord
from minivess.errors import StoreError, StoreUnreachable
from minivess.runtime import liveness
from minivess.runtime.signals import Terminated
from minivess.tracking.store.connection import translate_errors
from minivess.tracking.store.store import Store

RENEW_S, LIMIT_S = 15.0, 90.0
ENDED = "ended"
Holder = dict[str, str]
"""Tags of the process that trains a cell."""
log = logging.getLogger(__name__)


class LeaseLost(Terminated):
    """Another process trains this cell now."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)

    def __str__(self) -> str:
        return "the lease was not renewed in time, and another process trains this cell now"


class Look(NamedTuple):
    """What one look finds about a cell; epoch 0 was never taken.

    Args:
        quiet_s: for how long the looking process has seen no new sign of life.
    """

    epoch: int
    holder: Holder
    has_ended: bool = False
    is_gone: bool = False
    quiet_s: float = 0.0


@dataclass
class Leases:
    """The leases on all cells of one profile.

    Args:
        run_id: the run of the profile.
        limit_s: seconds without a sign of life after which a cell may be taken over.
    """

    store: Store
    run_id: str
    limit_s: float = LIMIT_S
    renew_s: float = RENEW_S
    _seen: dict[str, tuple[str, float]] = field(default_factory=dict)

    @contextmanager
    def taken(self, key: str, waits: Callable[[Holder], None]) -> Iterator[Callable[[], None]]:
        """Hold the lease on a cell for the length of a block, in the main thread.

        Gives a function that returns once the store confirms the lease.

        Args:
            waits: called once for each other holder that is waited for.

        Raises:
            LeaseLost: within the block, as soon as another process has taken over.
        """
        epoch = self._take(key, waits)
        over = threading.Event()
        renewal = threading.Thread(target=self._renew, args=(key, epoch, over), daemon=True)
        before = signal.signal(signal.SIGUSR1, _lose)
        renewal.start()
        try:
            yield lambda: self._confirm(key, epoch)
        finally:
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)
            over.set()
            renewal.join()
            signal.signal(signal.SIGUSR1, before)
            self._write(key, epoch, ENDED)

    def look(self, key: str) -> Look:
        """Who has a cell, and since when no sign of life has come."""
        now = time.monotonic()  # before the look, so that a pause between both takes nothing away
        record = self.store.get(self.run_id)
        epoch = _newest(record, key)
        if not epoch:
            return Look(0, {})
        holder: Holder = json.loads(record.params[name(key, epoch)])
        sign = record.tags.get(name(key, epoch), "")
        if self._seen.get(key, ("", 0.0))[0] != f"{epoch} {sign}":
            self._seen[key] = f"{epoch} {sign}", now
        quiet_s = now - self._seen[key][1]
        return Look(epoch, holder, sign == ENDED, liveness.is_gone(holder), quiet_s)

    def is_abandoned(self, key: str, *, since: int) -> bool:
        """Whether an epoch after `since` was taken, and its holder died or fell silent."""
        found = self.look(key)
        died = found.is_gone and not found.has_ended
        return found.epoch > since and (died or found.quiet_s >= self.limit_s)

    def _take(self, key: str, waits: Callable[[Holder], None]) -> int:
        known = 0
        while True:
            found = self.look(key)
            free = not found.epoch or found.has_ended or found.is_gone
            if free or found.quiet_s >= self.limit_s:
                if self._claim(key, found.epoch + 1):
                    return found.epoch + 1
                continue
            if found.epoch > known:
                waits(found.holder)
                known = found.epoch
            time.sleep(self.renew_s / 3)

    def _claim(self, key: str, epoch: int) -> bool:
        holder = json.dumps(liveness.identity() | {"thread": str(threading.get_ident())})
        try:
            with translate_errors(f"take the lease {name(key, epoch)}"):
                run_id = self.store.resolve(self.run_id)
                self.store.client.log_param(run_id, name(key, epoch), holder)
        except StoreError as error:
            if error.code != "INVALID_PARAMETER_VALUE":
                raise
            return False
        self.store.unreachable = False  # it has just answered, so results are looked for again
        return True

    def _renew(self, key: str, epoch: int, over: threading.Event) -> None:
        count = 0
        while not over.wait(self.renew_s):
            count += 1
            if self._is_lost(key, epoch) and not over.is_set():
                os.kill(os.getpid(), signal.SIGUSR1)
                return
            self._write(key, epoch, str(count))

    def _write(self, key: str, epoch: int, sign: str) -> None:
        try:
            self.store.set_tags(self.run_id, {name(key, epoch): sign})
        except StoreError as error:
            log.warning("A lease was not renewed: %s", error.problem)

    def _is_lost(self, key: str, epoch: int) -> bool | None:
        """Whether another process has the next epoch; None while the store does not answer."""
        try:
            return _newest(self.store.get(self.run_id), key) > epoch
        except StoreUnreachable as away:
            log.warning("%s Training goes on.", away.problem)
            return None

    def _confirm(self, key: str, epoch: int) -> None:
        while (lost := self._is_lost(key, epoch)) is None:
            time.sleep(self.renew_s)
        if lost:
            raise LeaseLost


def name(key: str, epoch: int) -> str:
    """Param that holds who has an epoch of a cell, and tag that holds its last sign of life."""
    return f"lease.{key}.{epoch}"


def _newest(record: RunRecord, key: str) -> int:
    prefix = name(key, 0)[:-1]
    return max((int(p[len(prefix) :]) for p in record.params if p.startswith(prefix)), default=0)


def _lose(number: int, frame: FrameType | None) -> None:
    raise LeaseLost
