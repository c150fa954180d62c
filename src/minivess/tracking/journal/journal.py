"""Journal of a run: a file of operations that survives a kill of any process.

A line is `crc32 seq json`. Operations: `open` (what MLflow needs to make the run), `log`
(metrics, params, tags, dataset), `file` (a copy in the spool), `close` (how the run ended).
The process that holds the file's lock writes and uploads it. Only the last line can be torn; it is
dropped.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import threading
import uuid
import zlib
from collections import deque
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from minivess import files

Operation = dict[str, Any]

TEXTS = (".json", ".yaml", ".md", ".txt", ".html", ".csv", ".log")
"""Suffixes of files that may contain `uid-...` references to runs (REFERENCE in the store)."""
TICK_S = 1.0
TICKS_PER_SYNC = 5
RESERVE, RESERVED = "reserve", 2**20
"""Bytes reserved so that the end of a run can be written on a full disk."""
_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
log = logging.getLogger(__name__)


def encode_line(seq: int, operation: Operation) -> bytes:
    """Encode one operation as a line of the file."""
    body = f"{seq} {_encode(operation)}".encode()
    return b"%08x %b\n" % (zlib.crc32(body), body)


def parse_lines(data: bytes, first: int = 0) -> tuple[list[Operation], int]:
    """Return the whole lines at the start of `data`, numbered from `first`, and their bytes."""
    found: list[Operation] = []
    length = 0
    for raw in data.splitlines(keepends=True):
        operation = _operation(raw, first + len(found))
        if operation is None:
            break
        found.append(operation)
        length += len(raw)
    return found, length


def _operation(raw: bytes, seq: int) -> Operation | None:
    code, _, body = raw[:-1].partition(b" ")
    if not raw.endswith(b"\n") or code != b"%08x" % zlib.crc32(body):
        return None
    number, _, text = body.partition(b" ")
    if number != b"%d" % seq:
        return None
    operation: Operation = json.loads(text)
    return operation


class Journal:
    """The journal of one run, locked by its writer; opening an old one removes a torn line."""

    _said: ClassVar[set[Path]] = set()

    def __init__(self, folder: Path, uid: str, *, is_new: bool = True) -> None:
        """Lock the file; without `is_new` it has to be there.

        Raises:
            BlockingIOError: another process holds it.
            FileNotFoundError: another process has stored and removed it.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.uid, self.path, self.spool = uid, folder / f"{uid}.jsonl", folder / uid
        self._reserve = folder / RESERVE
        self._file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT * is_new, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.fstat(self._file).st_nlink:
                raise FileNotFoundError(self.path)
        except OSError:
            os.close(self._file)
            raise
        self.operations, length = parse_lines(self._bytes(0))
        os.ftruncate(self._file, length)
        self._seq = len(self.operations)
        self._backlog = bytearray()
        self._puts: deque[tuple[str, Callable[[Path], object]]] = deque()
        self._unsynced: list[Path] = []
        self.written: dict[str, dict[str, Any]] = {}
        """Size and hash of each artifact that contains no `uid-...` reference."""
        self._lock, self._copying = threading.Lock(), threading.Lock()
        self._ended = threading.Event()
        self._refusal: OSError | None = None
        self._keep_room()

    def _keep_room(self) -> None:
        if not self._reserve.exists():
            try:
                self._reserve.write_bytes(os.urandom(RESERVED))  # nothing compresses it
            except OSError:
                self._reserve.unlink(missing_ok=True)

    # --- writing --------------------------------------------------------------------------

    def append(self, operation: Operation) -> None:
        """Write a line; while the disk is full, keep it in memory and retry."""
        with self._lock:
            self._backlog += encode_line(self._seq, operation)
            self._seq += 1
            self._write()

    def _write(self) -> None:
        try:
            while self._backlog:
                written = os.write(self._file, self._backlog)
                del self._backlog[:written]
        except OSError as error:
            self._refused(error)
        else:
            if not self._puts:
                self._refusal = None
                self._said.discard(self.path.parent)

    def _refused(self, error: OSError) -> None:
        if self._refusal is None:
            self._refusal = error
            known = self.path.parent in self._said  # only the first of several journals warns
            self._said.add(self.path.parent)
            log.log(
                logging.INFO if known else logging.WARNING,
                "%s cannot be written (%s). The work continues and everything is kept in memory "
                "until there is room; free disk space before it ends.",
                self.path.parent,
                error.strerror,
            )

    def put(self, to: str, fill: Callable[[Path], object]) -> None:
        """Let `fill` write a file of the spool, then record it as the artifact `to`.

        A file that finds no room on the disk is written later, before any file put after it.
        """
        with self._copying:
            self._puts.append((to, fill))
            self._spool()

    def _spool(self) -> None:
        while self._puts:
            to, fill = self._puts[0]
            place = self.spool / uuid.uuid4().hex[:12] / PurePosixPath(to).name
            try:
                place.parent.mkdir(parents=True)
                fill(place)
            except OSError as error:
                self._refused(error)
                shutil.rmtree(place.parent, ignore_errors=True)
                return
            sha256 = files.sha256(place)
            if place.suffix not in TEXTS or b"uid-" not in place.read_bytes():
                self.written[to] = {"size": place.stat().st_size, "sha256": sha256}
            self._unsynced.append(place)
            path = place.relative_to(self.spool).as_posix()
            self.append({"op": "file", "path": path, "sha256": sha256, "to": to})
            self._puts.popleft()

    def keep(self, each_tick: Callable[[], object] = lambda: None) -> None:
        """Start a thread that syncs to disk every five seconds."""

        def work() -> None:
            ticks = 0
            while not self._ended.wait(TICK_S):
                each_tick()
                ticks += 1
                # What found no room is retried at each tick.
                if ticks % TICKS_PER_SYNC == 0 or self.refusal:
                    self.sync()

        threading.Thread(target=work, daemon=True, name=f"journal {self.uid}").start()

    def sync(self) -> None:
        """Sync what was written so far to disk, file copies before the lines that name them."""
        with self._copying:
            self._spool()
            copies, self._unsynced = self._unsynced, []
        with self._lock:
            self._write()
        try:
            for copy in copies:
                files.sync(copy)
            os.fsync(self._file)
        except OSError as error:
            if self._file >= 0:
                self._refused(error)

    def give_up(self) -> list[str]:
        """Drop files that find no room, so that the end can be written; return their names."""
        with self._copying:
            lost = [to for to, _ in self._puts]
            self._puts.clear()
        self._reserve.unlink(missing_ok=True)
        self.sync()
        return lost

    def close(self, operation: Operation) -> None:
        """Write the last line and sync everything to disk."""
        self.sync()
        if not self._puts:
            self.append(operation)
        self._ended.set()
        self.sync()

    @property
    def refusal(self) -> OSError | None:
        """The error that keeps data from the disk; None if everything is written."""
        return self._refusal if self._backlog or self._puts else None

    # --- reading --------------------------------------------------------------------------

    def read(self, offset: int, seq: int) -> tuple[list[Operation], int]:
        """Return the operations from `offset` on, including those not yet on disk."""
        with self._lock:
            data = self._bytes(offset) + self._backlog
        found, length = parse_lines(data, seq)
        return found, offset + length

    @property
    def size(self) -> int:
        """Bytes written, including those not yet on disk."""
        with self._lock:
            there = os.fstat(self._file).st_size if self._file >= 0 else 0
            return there + len(self._backlog)

    def _bytes(self, offset: int) -> bytes:
        if self._file < 0:
            return b""
        size = os.fstat(self._file).st_size - offset
        return os.pread(self._file, size, offset) if size > 0 else b""

    # --- the end --------------------------------------------------------------------------

    def remove(self) -> None:
        """Delete the journal and its spool, once everything is stored."""
        self.path.unlink(missing_ok=True)
        shutil.rmtree(self.spool, ignore_errors=True)
        self.release()

    def set_aside(self) -> Path:
        """Keep the file under a name that is not uploaded again."""
        kept = self.path.rename(self.path.with_suffix(".refused"))
        self.release()
        return kept

    def release(self) -> None:
        """Release the lock."""
        self._ended.set()
        with self._lock:
            if self._file >= 0:
                os.close(self._file)
                self._file = -1
