"""Background thread that uploads journals to MLflow."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from minivess import files
from minivess.errors import StoreError
from minivess.tracking.journal import upload
from minivess.tracking.journal.journal import Journal, Operation
from minivess.tracking.store.store import RunPending, Store

POLL_S = 0.3
LONGEST_PAUSE_S = 30.0
FILES_PER_CALL = 16
# Seconds that the end of a run waits: after a failure, at most, for a store that does not answer.
GLANCE_S, PATIENCE_S, SILENCE_S = 2.0, 10.0, 150.0
# Seconds to wait for a new run's id; without one the run continues under its uid.
OPENING_S = 10.0
REFUSALS = (
    "INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS",
    "INVALID_STATE",
)  # fmt: skip
log = logging.getLogger(__name__)


class PendingUpload:
    """Upload of one journal, from its first line to its end."""

    def __init__(self, store: Store, journal: Journal) -> None:
        self.store, self.journal = store, journal
        self.run_id: str | None = None
        self.done = False
        # A run that began without the store does not wait for it at its end.
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
        """Upload what is there now: values, then files, then the end.

        Raises:
            StoreUnreachable: something could not be stored; it stays pending.
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
        """Record why the upload stopped."""
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
                if error.code not in REFUSALS:
                    raise
                part = part[:1]
                with self._rejecting(part):
                    upload.values(self.store, str(self.run_id), part)
            del self._logs[: len(part)]
            self.progress = time.monotonic()

    def _send_files(self) -> None:
        while self._files:
            part = self._files[:FILES_PER_CALL]
            whole = [operation for operation in part if self._is_whole(operation)]
            copies = [(self.journal.spool / one["path"], one["to"]) for one in whole]
            with self._rejecting(whole):
                upload.files(self.store, str(self.run_id), copies)
            del self._files[: len(part)]
            self.progress = time.monotonic()

    def _end(self, run_id: str, closing: Operation) -> None:
        with self._rejecting([{"to": "the end"}]):
            upload.end(self.store, run_id, self.journal.uid, closing)
        self._leave()

    def _is_whole(self, operation: Operation) -> bool:
        path = self.journal.spool / operation["path"]
        if path.is_file() and files.sha256(path) == operation["sha256"]:
            return True
        self._refuse(operation, StoreError("Its copy in the spool is lost or damaged.", remedy="-"))
        return False

    @contextmanager
    def _rejecting(self, operations: Sequence[Operation]) -> Iterator[None]:
        """Count operations that MLflow rejects; other errors are raised."""
        try:
            yield
        except StoreError as error:
            if error.code not in REFUSALS:
                raise
            for operation in operations:
                self._refuse(operation, error)

    def _refuse(self, operation: Operation, error: StoreError) -> None:
        self._refused += 1
        what = operation.get("to") or ", ".join(
            name for part in ("metrics", "params", "tags") for name in operation.get(part, {})
        )
        log.warning("MLflow rejected %s of run %s: %s", what, self.run_id, error.problem)

    def _leave(self) -> None:
        if self._refused:
            kept = self.journal.set_aside()
            log.warning("%d operations were rejected; all are kept in %s", self._refused, kept)
        else:
            self.journal.remove()
        self.done = True


def of(store: Store) -> Uploader:
    """Return the uploader of this process for a store, created at its first use."""
    if store.uploader is None:
        store.uploader = Uploader(store)
    uploader: Uploader = store.uploader
    return uploader


class Uploader:
    """Uploads the journals that this process holds, in the order in which they were added."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._uploads: list[PendingUpload] = []
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()
        self._wanted = False
        self._current: PendingUpload | None = None
        # A store that was unreachable at the start has been reported already.
        self._said = store.unreachable

    def take(self, journal: Journal) -> PendingUpload:
        """Upload this journal until it is closed and stored."""
        pending = PendingUpload(self.store, journal)
        with self._changed:
            self._uploads.append(pending)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, daemon=True, name="sender")
                self._thread.start()
        return pending

    def pending(self) -> list[PendingUpload]:
        """Uploads that are not finished."""
        with self._changed:
            return [pending for pending in self._uploads if not pending.done]

    # --- waiting --------------------------------------------------------------------------

    def opened(self, pending: PendingUpload) -> str | None:
        """Wait for the run's id; None if the store does not answer in time."""
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
        """Wait until everything written is stored; return False if the store fails.

        A store that does not answer is waited for as long as MLflow's own time limits let a call
        last, unless `hurry` is set.
        """
        begun, there, failures = time.monotonic(), pending.journal.size, pending.failures

        def over() -> bool:
            waited = time.monotonic() - begun
            quiet = time.monotonic() - pending.progress
            # An upload that has been failing is retried once, without waiting.
            failed = pending.failures > failures or (self.store.unreachable and waited > GLANCE_S)
            if not (failed or hurry) and self._current is pending:
                # A large file may take long; a call to a silent server fails by itself.
                return pending.stored(there)
            limit = PATIENCE_S if failed or hurry else SILENCE_S
            return pending.stored(there) or (quiet if failed else min(quiet, waited)) > limit

        self._wait(over)
        return pending.stored(there)

    def flush_all(self) -> list[PendingUpload]:
        """Flush every upload; return those that are left."""
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
        """Upload what there is; return whether everything was stored."""
        well = True
        # New runs first: their processes wait for an id.
        for pending in sorted(self.pending(), key=lambda pending: pending.run_id is not None):
            try:
                self._current = pending
                pending.send()
                pending.trouble = None
            except RunPending as waiting:
                pending.fail(waiting)
            # Whatever went wrong, the values are kept, and this thread must live to upload them.
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
            log.info("MLflow can be written to again.")
            self._said = self.store.unreachable = False
        return well

    def _is_away(self, pending: PendingUpload, trouble: Exception) -> bool:
        """Whether the store itself does not answer; warns once until it recovers."""
        if not self._said:
            self._said = True
            what = getattr(trouble, "problem", repr(trouble))
            log.warning(
                "%s Work continues; everything is kept in %s and uploaded once MLflow answers.",
                what, pending.journal.path.parent,
            )  # fmt: skip
        try:
            self.store.connect()
        except StoreError:
            return True
        return False
