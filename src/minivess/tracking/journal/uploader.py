"""Brings journals into the store in a thread of its own; nobody waits for it but who wants to."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from minivess import files
from minivess.errors import StoreError
from minivess.tracking.journal import upload
from minivess.tracking.journal.journal import Journal, Operation
from minivess.tracking.store.store import RunPending, Store

POLL_S = 0.3
LONGEST_PAUSE_S = 30.0
FILES_PER_CALL = 16
# How long an end waits for a store that has just failed, and for one that says nothing.
GLANCE_S, PATIENCE_S, SILENCE_S = 2.0, 10.0, 150.0
# A run that has no id by then goes on without one.
OPENING_S = 10.0
REFUSALS = (
    "INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS",
    "INVALID_STATE",
)  # fmt: skip
log = logging.getLogger(__name__)


class PendingUpload:
    """One journal on its way into the store, always from its first line."""

    def __init__(self, store: Store, journal: Journal) -> None:
        self.store, self.journal = store, journal
        self.run_id: str | None = None
        self.done = False
        # Whoever begins without a store does not wait for it at the end either.
        self.progress = 0.0 if store.unreachable else time.monotonic()
        self.trouble: Exception | None = None
        self.failures = 0
        self._offset = self._read = 0
        self._opening: Operation | None = None
        self._closing: Operation | None = None
        self._logs: list[Operation] = []
        self._files: list[Operation] = []
        self._refused = 0

    def send(self) -> None:
        """Send what is there now: values first, then files, the end when all else is sent.

        Raises:
            StoreUnreachable: the store could not take something, which stays to be sent.
        """
        self._take_in()
        if self._opening is None:
            return
        if self.run_id is None:
            self.run_id = upload.run_of(self.store, self._opening)
            self.store.remember_id(self.journal.uid, self.run_id)
        self._send_values()
        self._send_files()
        if self._closing is not None:
            self._end(self.run_id, self._closing)

    def fail(self, trouble: Exception) -> None:
        """Note why nothing more could be sent."""
        self.trouble = trouble
        self.failures += 1

    def stored(self, size: int) -> bool:
        """Whether the first `size` bytes of the journal are in the store."""
        nothing_waits = not (self._logs or self._files or self._closing)
        return self.done or (self._offset >= size and nothing_waits)

    def _take_in(self) -> None:
        found, self._offset = self.journal.read(self._offset, self._read)
        self._read += len(found)
        for operation in found:
            match operation["op"]:
                case "open":
                    self._opening = operation
                case "close":
                    self._closing = operation
                case "file":
                    self._files.append(operation)
                case _:
                    self._logs.append(operation)

    def _send_values(self) -> None:
        while self._logs:
            part = self._logs[:]
            try:
                upload.values(self.store, str(self.run_id), part)
            except StoreError as error:
                self._reraise_unless_refused(error)
                part = part[:1]
                self._send_alone(part[0])
            del self._logs[: len(part)]
            self.progress = time.monotonic()

    def _send_alone(self, operation: Operation) -> None:
        try:
            upload.values(self.store, str(self.run_id), [operation])
        except StoreError as error:
            self._reraise_unless_refused(error)
            self._refuse(operation, error)

    def _send_files(self) -> None:
        while self._files:
            part = self._files[:FILES_PER_CALL]
            whole = [operation for operation in part if self._is_whole(operation)]
            try:
                upload.files(
                    self.store,
                    str(self.run_id),
                    [(self.journal.spool / one["path"], one["to"]) for one in whole],
                )
            except StoreError as error:
                self._reraise_unless_refused(error)
                for operation in whole:
                    self._refuse(operation, error)
            del self._files[: len(part)]
            self.progress = time.monotonic()

    def _end(self, run_id: str, closing: Operation) -> None:
        try:
            upload.end(self.store, run_id, self.journal.uid, closing)
        except StoreError as error:
            self._reraise_unless_refused(error)
            self._refuse({"to": "the end"}, error)
        self._leave()

    def _is_whole(self, operation: Operation) -> bool:
        path = self.journal.spool / operation["path"]
        if path.is_file() and files.sha256(path) == operation["sha256"]:
            return True
        self._refuse(operation, StoreError("Its copy in the spool is gone or torn.", remedy="-"))
        return False

    @staticmethod
    def _reraise_unless_refused(error: StoreError) -> None:
        if error.code not in REFUSALS:
            raise error

    def _refuse(self, operation: Operation, error: StoreError) -> None:
        self._refused += 1
        what = operation.get("to") or ", ".join(
            name for part in ("metrics", "params", "tags") for name in operation.get(part, {})
        )
        log.warning("MLflow refuses %s of run %s: %s", what, self.run_id, error.problem)

    def _leave(self) -> None:
        if self._refused:
            kept = self.journal.set_aside()
            log.warning("%d operations were refused; all are kept in %s", self._refused, kept)
        else:
            self.journal.remove()
        self.done = True


def of(store: Store) -> Uploader:
    """The one that uploads this process's journals into a store, made at its first use."""
    if store.uploader is None:
        store.uploader = Uploader(store)
    uploader: Uploader = store.uploader
    return uploader


class Uploader:
    """Sends the journals that this process holds, in the order in which they were taken."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._uploads: list[PendingUpload] = []
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()
        self._wanted = False
        self._current: PendingUpload | None = None
        # A store missing at the start has been said by whoever asked it.
        self._said = store.unreachable

    def take(self, journal: Journal) -> PendingUpload:
        """Send this journal from now on, until it is closed and stored."""
        pending = PendingUpload(self.store, journal)
        with self._changed:
            self._uploads.append(pending)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, daemon=True, name="sender")
                self._thread.start()
        return pending

    def pending(self) -> list[PendingUpload]:
        """What is not in the store yet."""
        with self._changed:
            return [pending for pending in self._uploads if not pending.done]

    # --- waiting --------------------------------------------------------------------------

    def opened(self, pending: PendingUpload) -> str | None:
        """The run's id as soon as the store has given one; none while it does not answer."""
        if not self.store.unreachable:
            until = time.monotonic() + OPENING_S
            self._wait(
                lambda: (
                    pending.run_id is not None
                    or pending.trouble is not None
                    or time.monotonic() > until
                )
            )
        return pending.run_id

    def flush(self, pending: PendingUpload, *, hurry: bool = False) -> bool:
        """Wait until all is stored that was written; give up on a store that fails.

        One that says nothing is waited for as long as MLflow's own time limits let a call last,
        unless there is a `hurry`.
        """
        begun, there, failures = time.monotonic(), pending.journal.size, pending.failures

        def over() -> bool:
            waited = time.monotonic() - begun
            quiet = time.monotonic() - pending.progress
            # What has failed for long already is tried once more, and not waited for.
            failed = pending.failures > failures or (self.store.unreachable and waited > GLANCE_S)
            if not (failed or hurry) and self._current is pending:
                # A large file may take long; a silent server ends in a failure by itself.
                return pending.stored(there)
            limit = PATIENCE_S if failed or hurry else SILENCE_S
            return pending.stored(there) or (quiet if failed else min(quiet, waited)) > limit

        self._wait(over)
        return pending.stored(there)

    def flush_all(self) -> list[PendingUpload]:
        """Wait likewise for everything; returns what is left."""
        return [pending for pending in self.pending() if not self.flush(pending)]

    def _wait(self, over: Callable[[], bool]) -> None:
        with self._changed:
            self._wanted = True
            self._changed.notify_all()
            while not over():
                self._changed.wait(0.1)

    # --- the thread -----------------------------------------------------------------------

    def _work(self) -> None:
        pause = POLL_S
        while True:
            with self._changed:
                if not self._wanted:
                    self._changed.wait(pause)
                pause = POLL_S if self._wanted else pause
                self._wanted = False
                if not self._uploads:
                    self._thread = None
                    return
            pause = POLL_S if self._round() else min(2 * pause, LONGEST_PAUSE_S)

    def _round(self) -> bool:
        """Send what there is; whether the store took all of it."""
        well = True
        # A run that begins is waited for, so it goes before what others have left.
        for pending in sorted(self.pending(), key=lambda pending: pending.run_id is not None):
            try:
                self._current = pending
                pending.send()
                pending.trouble = None
            except RunPending as waiting:
                pending.fail(waiting)
            # Whatever went wrong, the values are kept and the thread has to live to send them.
            except Exception as trouble:  # noqa: BLE001
                pending.fail(trouble)
                well = False
                if self._is_away(pending, trouble):
                    break
            finally:
                self._current = None
                with self._changed:
                    self._changed.notify_all()
        with self._changed:
            self._uploads = [pending for pending in self._uploads if not pending.done]
        if well and self._said:
            log.info("MLflow takes values again.")
            self._said = False
        return well

    def _is_away(self, pending: PendingUpload, trouble: Exception) -> bool:
        """Whether the whole store does not answer; said once until all goes well again."""
        if not self._said:
            self._said = True
            what = getattr(trouble, "problem", repr(trouble))
            log.warning(
                "%s Work goes on; everything is kept in %s and sent when MLflow takes it.",
                what, pending.journal.path.parent,
            )  # fmt: skip
        try:
            self.store.connect()
        except StoreError:
            return True
        return False
