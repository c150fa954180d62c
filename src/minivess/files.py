"""Write files atomically: under a temporary name, synced, then renamed."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from stat import S_ISREG
from typing import Any

from minivess.errors import DiskFull, MinivessError, OrchestrationError

FULL = (errno.ENOSPC, errno.EDQUOT)
CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS)
LEAST_FREE = 2**16
POINTERS = {  # small texts that stand for a file until somebody fetches it
    b"version https://git-lfs": "is a Git LFS pointer; `git lfs pull` fetches its content",
    b"/annex/objects/": "is a git-annex pointer; `git annex get` fetches its content",
}
LARGE = 2**30  # below it, reading a file of holes takes a second


def write(path: Path, fill: Callable[[Path], object]) -> Path:
    """Let `fill` write a temporary neighbour of `path`, then rename it into place.

    A kill at any moment leaves the old file or the new one, never a torn one.
    The temporary name keeps the suffix, because several writers choose their format by it.

    Raises:
        DiskFull: there is no room for it.
    """
    temporary = path.with_name(f".{uuid.uuid4().hex[:8]}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fill(temporary)
        sync(temporary)
        temporary.replace(path)
    except Exception as error:
        # Writers in C++ report it in their own texts.
        lacking = path.parent.is_dir() and shutil.disk_usage(path.parent).free < LEAST_FREE
        if lacking or says_full(error):
            raise disk_full(str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)
    return path


def says_full(error: BaseException) -> bool:
    """Whether an error, or one that led to it, says that there was no room."""
    return _says(error, FULL, "disk is full") is not None


def _says(error: BaseException | None, codes: tuple[int, ...], words: str) -> BaseException | None:
    """The first of an error and those that led to it that says so; libraries keep only words."""
    while error is not None:
        texts = (words, *map(os.strerror, codes))
        if getattr(error, "errno", None) in codes or any(text in str(error) for text in texts):
            return error
        error = error.__cause__ or error.__context__
    return None


def expected(error: Exception) -> MinivessError | None:
    """Translate an error of the operating system (disk full, permissions); None for others."""
    if says_full(error):
        return disk_full("what this command writes")
    closed = _says(error, CLOSED, "readonly database")
    if closed is None:
        return None
    return OrchestrationError(
        f"The permissions of files stand in the way: {closed}.",
        remedy="correct them, or choose another output folder with MINIVESS_HOME=/path/to/folder",
    )


def disk_full(what: str) -> DiskFull:
    """Build the error for a full disk."""
    return DiskFull(
        f"The disk has no room left for {what}.",
        remedy="free some space, then the same command goes on with what is finished; or choose "
        "another output folder: MINIVESS_HOME=/path/to/folder",
    )


def write_text(path: Path, text: str) -> Path:
    """Write `text` as UTF-8."""
    return write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> Path:
    """Write `value` as indented JSON; NaN and infinity are refused."""
    return write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], first: Sequence[str] = ()) -> Path:
    """Write rows with a column for each of their keys, those in `first` first."""
    columns = dict.fromkeys([*first, *(name for row in rows for name in row)])
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return write_text(path, text.getvalue())


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def copy(source: Path, target: Path) -> Path:
    """Copy the bytes of `source`; mode and times of the original are not carried over."""
    return write(target, lambda temporary: shutil.copyfile(source, temporary))


def copy_package(folder: Path) -> Path:
    """Copy the sources of this package into `folder`, to be used where it is not installed."""
    ignored = shutil.ignore_patterns("__pycache__", "_configs")
    return Path(shutil.copytree(Path(__file__).parent, folder / "minivess", ignore=ignored))


def size(path: Path) -> int:
    """Bytes of a file, or of all files below a folder, those of several names once."""
    found = {}
    for file in [path, *path.rglob("*")] if path.is_dir() else [path]:
        status = file.lstat()
        if S_ISREG(status.st_mode):
            found[status.st_dev, status.st_ino] = status.st_size
    return sum(found.values())


def sha256(path: Path) -> str:
    """SHA-256 of the bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def md5(path: Path) -> str:
    """MD5 of the bytes, the hash that DVC uses."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def emptiness(path: Path) -> str | None:
    """Say why a file cannot be read as it is: a pointer, sparse, or larger than memory."""
    status = path.stat()
    if 0 < status.st_size <= 1024:
        start = path.read_bytes()
        for mark, problem in POINTERS.items():
            if start.startswith(mark):
                return problem
    stored = status.st_blocks * 512
    if status.st_size > LARGE and stored < status.st_size / 16:
        return f"says {status.st_size} bytes, of which {stored} are on the disk"
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if status.st_size > memory:
        return f"has {status.st_size} bytes, more than this machine's memory ({memory})"
    return None


def sync(path: Path) -> None:
    """Force a file or a folder's entries to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
