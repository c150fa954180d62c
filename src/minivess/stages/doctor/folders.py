"""Checks of folders: the output folder, its disk and file system, one's own configs/."""

from __future__ import annotations

import sqlite3
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from minivess import config, home
from minivess.compute import hardware
from minivess.errors import OrchestrationError, UsageError
from minivess.runtime.cgroups import text_of
from minivess.stages.doctor.surroundings import Answer, Surroundings, above
from minivess.text import first_of, several

REMOTE = ("nfs", "cifs", "smb", "fuse.sshfs", "9p", "afs", "lustre", "beegfs", "gpfs", "fuse.gcs")
SLOW_CLOCK_S = 2.0


def writable(around: Surroundings) -> Answer:
    """Whether files can be written to the output folder."""
    if not around.home.writable:
        return "warning", f"{around.home.root} may only be read"
    with tempfile.NamedTemporaryFile(dir=around.home.root) as file:
        file.write(bytes(1_000_000))
        file.flush()
    return "ok", str(around.home.root)


def moved(around: Surroundings) -> Answer:
    """Whether the output folder lies where MLflow's addresses say."""
    last = around.home.last_root
    same = last == around.home.root
    return ("ok", "where it was made") if same else ("error", f"it was made at {last}")


def disk(around: Surroundings) -> Answer:
    """Free space for the output folder."""
    free = hardware.disk_free(around.env.home)
    return above(free, 1, 10), f"{free:.0f} GB free"


def filesystem(around: Surroundings) -> Answer:
    """The kind of file system below the output folder."""
    root, mounts = around.home.root, []
    for line in text_of(around.readings.root / "proc/mounts").splitlines():
        _, place, kind, *_ = line.split(" ")
        point = Path(place.replace("\\040", " "))
        if root.is_relative_to(point):
            mounts.append((len(point.parts), kind))
    kind = max(mounts)[1] if mounts else "unknown"
    return "warning" if kind.startswith(REMOTE) else "ok", kind


def locks(around: Surroundings) -> Answer:
    """Whether a lock of the output folder keeps a second one out."""
    if not around.home.writable:
        return "note", "not tried: the folder may only be read"
    with tempfile.TemporaryDirectory(dir=around.home.root) as folder:
        path = Path(folder) / "lock"
        with home.lock(path, what="minivess doctor"):
            try:
                with home.lock(path, what="minivess doctor"):
                    return "error", "two locks of one file were given at a time"
            except OrchestrationError:
                return "ok", "a second lock is refused"


def sqlite(around: Surroundings) -> Answer:
    """Whether SQLite can write in the output folder."""
    if not around.home.writable:
        return "note", "not tried: the folder may only be read"
    with (
        tempfile.TemporaryDirectory(dir=around.home.root) as folder,
        closing(sqlite3.connect(Path(folder) / "try.db")) as connection,
        connection,
    ):
        connection.execute("CREATE TABLE t AS SELECT 1 AS n")
    return "ok", f"SQLite {sqlite3.sqlite_version} writes there"


def clock(around: Surroundings) -> Answer:
    """The clock of this machine against that of the output folder's disk."""
    if not around.home.writable:
        return "note", "not compared: the folder may only be read"
    with tempfile.NamedTemporaryFile(dir=around.home.root) as file:
        apart = abs(Path(file.name).stat().st_mtime - time.time())
    return "warning" if apart > SLOW_CLOCK_S else "ok", f"{apart:.1f} s apart"


def holder(around: Surroundings) -> Answer:
    """A command that works in the output folder now."""
    found = home.holds(around.home.root / "lock")
    if found is None:
        return "ok", "nothing works there"
    return "note", f"`{found['what']}` (pid {found['pid']}, since {found['started']})"


def journal(around: Surroundings) -> Answer:
    """Runs that wait for MLflow, and what it has refused."""
    waiting = len(list(around.home.journal.glob("*.jsonl")))
    refused = len(list(around.home.journal.glob("*.refused")))
    found = f"{several(waiting, 'run')} open or waiting, {refused} refused"
    busy = home.holds(around.home.root / "lock") is not None
    return "warning" if refused or (waiting and not busy) else "ok", found


def configs(around: Surroundings) -> Answer:
    """Files of models, losses and tiers in the current folder."""
    readers: dict[str, Callable[[str], object]] = {
        "models": config.model, "losses": config.loss, "tiers": config.tier
    }  # fmt: skip
    wrong, good = [], 0
    for shelf, read in readers.items():
        for file in sorted((around.here / "configs" / shelf).glob("*.yaml")):
            try:
                read(file.stem)
                good += 1
            except UsageError as error:
                wrong.append(f"{file.name}: {error.problem}")
    return ("error", first_of(wrong, 2)) if wrong else ("ok", several(good, "file"))


CHECKS = {
    "home": writable, "moved": moved, "disk": disk, "filesystem": filesystem, "locks": locks,
    "sqlite": sqlite, "clock": clock, "holder": holder, "journal": journal, "configs": configs,
}  # fmt: skip
