"""The home folder: paths of everything that is written, and locks on them."""

from __future__ import annotations

import atexit
import fcntl
import json
import os
import re
import shutil
import socket
import sys
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


class Place:
    """A path inside the home folder, by its name there.

    Args:
        holds: what lies there.
        again: what it costs to make it again; None for what cannot be made again.
        derived: it goes to `Home.scratch` where the home folder may only be read.
    """

    def __init__(
        self, name: str, holds: str, *, again: str | None = None, derived: bool = False
    ) -> None:
        self.name, self.holds, self.again, self.derived = name, holds, again, derived

    def __get__(self, home: Home, kind: type[Home]) -> Path:
        return ((self.derived and home.scratch) or home.root) / self.name


@dataclass(frozen=True)
class Home:
    """Paths below `outputs/` or MINIVESS_HOME; nothing is made before it is needed."""

    root: Path
    scratch: Path | None = None
    """Where derived files go meanwhile, if this folder may only be read."""

    database = Place("mlflow.db", "MLflow's SQLite file")
    artifacts = Place("artifacts", "MLflow's artifacts")
    prefect = Place("prefect", "PREFECT_HOME of private servers")
    dvc = Place("dvc", "the DVC repository that holds curated sets")
    review_db = Place("review.db", "flagged volumes and what people decided about them")
    profile_cache = Place(
        "profile_cache",
        "volume statistics by content",
        again="volumes are measured again, seconds each",
        derived=True,
    )
    sources = Place(
        "sources", "mirrors of datasets in storage elsewhere", again="files are fetched again"
    )
    footprints = Place(
        "footprints",
        "divisors and memory of networks, by content",
        again="networks and this machine are measured again, up to a minute a model",
    )
    cells = Place("cells", "one folder for each cell key")
    skeletons = Place(
        "skeletons",
        "skeletons and surfaces of labels, by content",
        again="skeletons are made again, seconds a volume",
    )
    searches = Place("searches", "the trials of searches, and their winners as experiment files")
    gpus = Place("gpus", "a lock file for each GPU that trains")
    judged = Place(
        "judged",
        "masks and metrics of judged volumes, by content key",
        again="volumes are predicted again by the next analysis",
    )
    journal = Place("journal", "what is on its way into MLflow, one file for each run")
    tables = Place("tables", "metrics as plain files, one folder for each experiment")
    logs = Place("logs", "log files, one folder for each run")
    reports = Place("reports", "HTML reports and galleries", derived=True)
    workspace = Place(
        "workspace.duckdb",
        "the DuckDB file over all runs",
        again="the next query reads MLflow again",
        derived=True,
    )
    served = Place(
        "served",
        "exported models and built services",
        again="a service is built again by the next deployment",
        derived=True,
    )
    serving = Place("serving", "a record for each server of a model that runs")
    requests = Place("requests.db", "features of the volumes that services got")
    pointers = Place("pointers.json", "published run ids when Prefect is disabled")
    demo = Place("demo-data", "demo volumes", again="demo volumes are drawn again")

    @classmethod
    def places(cls) -> dict[str, Place]:
        """Every place by its name in the folder."""
        return {one.name: one for one in vars(cls).values() if isinstance(one, Place)}

    @property
    def writable(self) -> bool:
        """Whether anything may be written here."""
        return self.scratch is None

    @property
    def last_root(self) -> Path:
        """Where this folder was when MLflow last wrote its artifact addresses."""
        return Path(files.read_json(self.root / MARKER)["root"])

    def relative(self, path: Path) -> str:
        """Return a path as contracts hold it: relative to this folder."""
        return path.resolve().relative_to(self.root).as_posix()

    def mark_moved(self) -> None:
        """Record the present place as this folder's own, and remember the former ones."""
        known = files.read_json(self.root / MARKER)
        former = [*known.get("former", []), known["root"]]
        files.write_json(self.root / MARKER, {**known, "root": str(self.root), "former": former})

    def translate(self, address: str) -> str:
        """Replace a former place of this folder, at the start of a stored address, by its root."""
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
            remedy="choose another with MINIVESS_HOME=/path/to/folder, or correct its permissions",
        ) from error
    if not moved and home.last_root != home.root:
        raise OrchestrationError(
            f"The output folder was made at {home.last_root} and now lies at {home.root}; "
            "MLflow's artifact addresses still point to the old place.",
            remedy="minivess rebase --apply"
            if home.writable
            else f"let it appear at {home.last_root}: here it may only be read",
        )
    return home


def _fit(root: Path) -> Path:
    try:
        path = root.expanduser().resolve()
    except RuntimeError as error:
        raise OrchestrationError(
            f"The output folder {root} names the home directory of no user.",
            remedy="write it out: MINIVESS_HOME=/path/to/folder",
        ) from error
    spelt, ours = os.fsencode(path).decode("utf-8", "replace"), sys.getfilesystemencoding()
    if spelt != str(path):
        raise OrchestrationError(
            f"The output folder {spelt} has letters in its path that this Python cannot read: it "
            f"takes names of files to be {ours}.",
            remedy="rename it to one in UTF-8, or choose another with MINIVESS_HOME=/path/to/folder"
            if ours == "utf-8"
            else "the same command with PYTHONUTF8=1, or in a locale of UTF-8 (LC_ALL=C.UTF-8)",
        )
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
    """Hold an exclusive lock; the file names its holder. A killed holder frees it.

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


@contextmanager
def used(path: Path) -> Iterator[None]:
    """Mark something as used until the block ends; several processes may, a killed one does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as stream:
        fcntl.flock(stream, fcntl.LOCK_SH)
        yield


def is_used(path: Path) -> bool:
    """Whether a process is within `used`."""
    return not _is_free(path, fcntl.LOCK_EX)


def holder(what: str) -> dict[str, Any]:
    """Describe this process to those that wait for the lock."""
    started = time.strftime("%Y-%m-%d %H:%M:%S")
    return {"what": what, "pid": os.getpid(), "host": socket.gethostname(), "started": started}


def holds(path: Path) -> dict[str, Any] | None:
    """Return the holder of a lock, without waiting for it or taking it; None if it is free."""
    return None if _is_free(path, fcntl.LOCK_SH) else _said(path)


def _is_free(path: Path, how: int) -> bool:
    try:
        with path.open(encoding="utf-8") as stream:
            fcntl.flock(stream, how | fcntl.LOCK_NB)
    except (FileNotFoundError, BlockingIOError) as error:
        return isinstance(error, FileNotFoundError)
    return True


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
