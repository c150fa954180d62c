"""The home folder: where everything that the product writes lies, and who may write now."""

from __future__ import annotations

import atexit
import fcntl
import json
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from minivess import files
from minivess.errors import OrchestrationError

MARKER = "home.json"
UNFIT = re.compile(r"[?{}\x00-\x1f\x7f]|%[0-9A-Fa-f]{2}")
"""What addresses of databases cannot hold: another folder would be meant."""


@dataclass(frozen=True)
class Home:
    """Paths below `outputs/` or MINIVESS_HOME; nothing is made before it is needed."""

    root: Path
    scratch: Path | None = None
    """Where derived files go meanwhile, if this folder may only be read."""

    @property
    def writable(self) -> bool:
        """Whether anything may be written here."""
        return self.scratch is None

    @property
    def database(self) -> Path:
        """MLflow's SQLite file."""
        return self.root / "mlflow.db"

    @property
    def artifacts(self) -> Path:
        """MLflow's artifacts."""
        return self.root / "artifacts"

    @property
    def prefect(self) -> Path:
        """PREFECT_HOME of private servers."""
        return self.root / "prefect"

    @property
    def dvc(self) -> Path:
        """The DVC repository that holds curated sets."""
        return self.root / "dvc"

    @property
    def review_db(self) -> Path:
        """Flagged volumes and what people decided about them."""
        return self.root / "review.db"

    @property
    def profile_cache(self) -> Path:
        """Volume statistics by content."""
        return (self.scratch or self.root) / "profile_cache"

    @property
    def sources(self) -> Path:
        """Mirrors of datasets in storage elsewhere."""
        return self.root / "sources"

    @property
    def footprints(self) -> Path:
        """Divisors and memory of networks, by content."""
        return self.root / "footprints"

    @property
    def cells(self) -> Path:
        """One folder for each cell key."""
        return self.root / "cells"

    @property
    def skeletons(self) -> Path:
        """Skeletons and surfaces of labels, by content."""
        return self.root / "skeletons"

    @property
    def searches(self) -> Path:
        """The trials of searches, and their winners as experiment files."""
        return self.root / "searches"

    @property
    def gpus(self) -> Path:
        """A lock file for each GPU that trains."""
        return self.root / "gpus"

    @property
    def judged(self) -> Path:
        """Masks and metrics of judged volumes, by content key."""
        return self.root / "judged"

    @property
    def journal(self) -> Path:
        """What is on its way into MLflow, one file for each run."""
        return self.root / "journal"

    @property
    def tables(self) -> Path:
        """Metrics as plain files, one folder for each experiment."""
        return self.root / "tables"

    @property
    def logs(self) -> Path:
        """Log files, one folder for each run."""
        return self.root / "logs"

    @property
    def reports(self) -> Path:
        """HTML reports and galleries."""
        return (self.scratch or self.root) / "reports"

    @property
    def workspace(self) -> Path:
        """The DuckDB file over all runs."""
        return (self.scratch or self.root) / "workspace.duckdb"

    @property
    def served(self) -> Path:
        """Exported models and built services."""
        return (self.scratch or self.root) / "served"

    @property
    def pointers(self) -> Path:
        """Published run ids when Prefect is disabled."""
        return self.root / "pointers.json"

    @property
    def demo(self) -> Path:
        """Demo volumes."""
        return self.root / "demo-data"

    def relative(self, path: Path) -> str:
        """A path as contracts hold it."""
        return path.resolve().relative_to(self.root).as_posix()

    @property
    def recorded(self) -> Path:
        """Where this folder lay when MLflow last wrote its addresses."""
        return Path(files.read_json(self.root / MARKER)["root"])

    def arrived(self) -> None:
        """This is its place from now on; the old ones are remembered."""
        known = files.read_json(self.root / MARKER)
        former = [*known.get("former", []), known["root"]]
        files.write_json(self.root / MARKER, {**known, "root": str(self.root), "former": former})

    def resident(self, address: str) -> str:
        """An address that a run holds; one inside a former place of this folder is here now."""
        for former in files.read_json(self.root / MARKER).get("former", []):
            if address == former or address.startswith(f"{former}/"):
                return f"{self.root}{address.removeprefix(former)}"
        return address


def open_home(root: Path, *, moved: bool = False, reading: bool = False) -> Home:
    """Make the home folder where it is missing, and check that it was not moved.

    `moved` leaves that check out. For `reading`, one that may not be written is opened as it is.

    Raises:
        OrchestrationError: the folder cannot be written or named, or it was moved (MLflow
            keeps absolute addresses of artifacts).
    """
    home = Home(_fit(root))
    marker = home.root / MARKER
    try:
        home.root.mkdir(parents=True, exist_ok=True)
        if not marker.exists():
            files.write_json(marker, {"root": str(home.root), "created": time.time()})
        elif not os.access(home.root, os.W_OK):
            if not reading:
                raise PermissionError(13, "not writable", str(home.root))
            home = replace(home, scratch=_scratch())
    except OSError as error:
        raise OrchestrationError(
            f"The output folder {home.root} cannot be written: {error.strerror}.",
            remedy="choose another with MINIVESS_HOME=/path/to/folder, or mend its permissions",
        ) from error
    if not moved and home.recorded != home.root:
        raise OrchestrationError(
            f"The output folder was made at {home.recorded} and now lies at {home.root}; "
            "MLflow's artifact addresses still point to the old place.",
            remedy="minivess rebase --apply"
            if home.writable
            else f"let it appear at {home.recorded}: here it may only be read",
        )
    return home


def _fit(root: Path) -> Path:
    try:
        path = root.expanduser().resolve()
    except RuntimeError as error:
        raise OrchestrationError(
            f"The output folder {root} names a home directory that nobody has.",
            remedy="write it out: MINIVESS_HOME=/path/to/folder",
        ) from error
    found = UNFIT.search(str(path))
    if found:
        raise OrchestrationError(
            f"The output folder {str(path)!r} has {found[0]!r} in its path, which the addresses of "
            "databases cannot hold.",
            remedy="choose another with MINIVESS_HOME=/path/to/folder",
        )
    return path


def _scratch() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="minivess-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@contextmanager
def lock(path: Path, *, what: str, wait: bool = False) -> Iterator[None]:
    """Hold an exclusive lock; the file says who holds it. A killed holder frees it.

    Raises:
        OrchestrationError: somebody else holds it and `wait` is false.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise _taken(path) from None
        stream.truncate(0)
        stream.write(json.dumps(holder(what)))
        stream.flush()
        try:
            yield
        finally:
            stream.truncate(0)


def holder(what: str) -> dict[str, Any]:
    """Who we are, for whoever waits."""
    started = time.strftime("%Y-%m-%d %H:%M:%S")
    return {"what": what, "pid": os.getpid(), "host": socket.gethostname(), "started": started}


def holds(path: Path) -> dict[str, Any] | None:
    """Who holds a lock now, without waiting for it or taking it."""
    try:
        stream = path.open(encoding="utf-8")
    except FileNotFoundError:
        return None
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _said(path)
    return None


def _said(path: Path) -> dict[str, Any]:
    text = path.read_text(encoding="utf-8")
    other: dict[str, Any] = json.loads(text) if text else {}
    return {"what": "another command", "pid": "?", "started": "?", **other}


def _taken(path: Path) -> OrchestrationError:
    other = _said(path)
    return OrchestrationError(
        f"`{other['what']}` is already running here "
        f"(pid {other['pid']}, since {other['started']}).",
        remedy=f"wait for it, stop it with `kill {other['pid']}`, or use another folder: "
        "MINIVESS_HOME=/path/to/folder",
    )
