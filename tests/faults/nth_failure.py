"""Fail the n-th change to a file, for each n, in each writer.

    python -m tests.faults.nth_failure FOLDER             every fault in every writer: hours
    python -m tests.faults.nth_failure FOLDER Alias=40    40 of them, drawn at random


`syscalls.c` is preloaded and fails exactly one call. A child forked from a process that has
imported everything does the writing, so a fault costs milliseconds; a second child checks what
holds then. Prints one JSON object: for each writer its calls, faults made, and what went wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import errno
import importlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

MODULE, LIBRARY = "tests.faults.nth_failure", "SYSCALLS"
DEATHS = {"dies before": -1, "dies after": -2, "torn": -3}
FAULTS = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO, **DEATHS}
WRITTEN, REFUSED, WRONG = 0, 3, 4
Report = dict[str, Any]
"""Calls of one undisturbed write, faults made, how the writes ended, and what went wrong."""
MISTAKES = (AssertionError, AttributeError, LookupError, NameError, TypeError)
"""What no fault of a disk may end in."""
LIMIT_S = 120


def build(folder: Path) -> Path:
    """Compile the library to preload."""
    library = folder / "syscalls.so"
    source = Path(__file__).with_name("syscalls.c")
    words = ["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"]
    subprocess.run(words, check=True, capture_output=True)
    return library


def sweep(folder: Path, at_most: Mapping[str, int]) -> dict[str, Report]:
    """Fail at most so many calls of each writer; returns the report of each."""
    words = [f"{name}={faults}" for name, faults in at_most.items()]
    done = subprocess.run(
        [sys.executable, "-m", MODULE, str(folder), *words],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Report] = json.loads(done.stdout)
    return found


class Sweep:
    """All faults of one writer, in a folder of its own that is put back before each."""

    def __init__(self, name: str, place: Path) -> None:
        from tests.faults.writers import WRITERS

        self.name, self.writer = name, WRITERS[name]
        self.folder, self.before = place / "now", place / "before"
        self.errors = place / "errors.txt"
        self.library = ctypes.CDLL(os.environ[LIBRARY])
        self.library.fault_below.argtypes = [ctypes.c_char_p]
        self.library.fault_arm.argtypes = [ctypes.c_long, ctypes.c_int]
        self.library.fault_changes.restype = ctypes.c_long

    def run(self, at_most: int | None) -> Report:
        """Make the faults, a random choice of them if there are more than `at_most`."""
        self.folder.mkdir(parents=True)
        self._require(self._child(lambda: self.writer.prepare(self.folder)), "prepare")
        self.folder.rename(self.before)
        calls = self._calls()
        wanted = [(nth, fault) for nth in range(1, calls + 1) for fault in FAULTS]
        if at_most is not None and at_most < len(wanted):
            wanted = random.Random(0).sample(wanted, at_most)
        ends = {"written": 0, "refused": 0, "killed": 0}
        wrong = [found for one in wanted if (found := self._fault(*one, ends))]
        return {"calls": calls, "faults": len(wanted), **ends, "wrong": wrong}

    def _calls(self) -> int:
        """How many calls one undisturbed write makes; imports here what it imported."""
        self._put_back()
        count, modules = self.before.parent / "count", self.before.parent / "modules"

        def work() -> None:
            self._arm(0, 0)
            self.writer.write(self.folder)
            changes = int(self.library.fault_changes())
            self.library.fault_below(b"")
            count.write_text(json.dumps([changes, *sys.modules]))

        def check() -> None:
            self.writer.check(self.folder, done=True)
            modules.write_text(json.dumps(list(sys.modules)))

        self._require(self._child(work), "write")
        self._require(self._child(check), "check")
        changes, *imported = json.loads(count.read_text())
        for name in (*imported, *json.loads(modules.read_text())):
            with contextlib.suppress(Exception):  # a name that a module made for itself
                importlib.import_module(name)
        return int(changes)

    def _fault(self, nth: int, fault: str, ends: dict[str, int]) -> str | None:
        self._put_back()

        def work() -> None:
            self._arm(nth, FAULTS[fault])
            self.writer.write(self.folder)

        code = self._child(work)
        end = {WRITTEN: "written", REFUSED: "refused", -signal.SIGKILL: "killed"}.get(code)
        if end is None or ((end == "killed") != (fault in DEATHS) and end != "written"):
            return f"{fault} at call {nth}: ended with {code}: {self._said()}"
        ends[end] += 1
        checked = self._child(lambda: self.writer.check(self.folder, done=end == "written"))
        return f"{fault} at call {nth} ({end}): {self._said()}" if checked != WRITTEN else None

    def _arm(self, nth: int, action: int) -> None:
        self.library.fault_below(os.fsencode(self.folder))
        self.library.fault_arm(nth, action)

    def _put_back(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.before, self.folder, symlinks=True)

    def _child(self, work: Callable[[], None]) -> int:
        """Exit code of a forked process that does the work; negative: the signal that ended it."""
        self.errors.write_text("")
        pid = os.fork()
        if pid == 0:
            with self.errors.open("w") as said:
                os.dup2(said.fileno(), 1)
                os.dup2(said.fileno(), 2)
            signal.alarm(LIMIT_S)
            os._exit(self._outcome(work))
        _, status = os.waitpid(pid, 0)
        return os.waitstatus_to_exitcode(status)

    def _outcome(self, work: Callable[[], None]) -> int:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  (the report names it)
            self.library.fault_arm(0, 0)
            with contextlib.suppress(OSError):
                traceback.print_exc()
            sys.stderr.flush()
            return WRONG if isinstance(error, MISTAKES) else REFUSED
        return WRITTEN

    def _require(self, code: int, what: str) -> None:
        if code != WRITTEN:
            sys.exit(f"{self.name}: {what} ended with {code}: {self._said()}")

    def _said(self) -> str:
        return self.errors.read_text()[-2000:]


def main() -> None:
    """Sweep the writers that are named, all of them without names."""
    from tests.faults.writers import WRITERS

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("writers", nargs="*", help="NAME or NAME=FAULTS")
    given = parser.parse_args()
    if LIBRARY not in os.environ:  # begin again with the library before libc
        library = str(build(given.folder))
        variables = {**os.environ, "LD_PRELOAD": library, LIBRARY: library}
        os.execve(sys.executable, [sys.executable, "-m", MODULE, *sys.argv[1:]], variables)
    found = {}
    for word in given.writers or WRITERS:
        name, _, at_most = word.partition("=")
        with tempfile.TemporaryDirectory(dir=given.folder) as place:
            found[name] = Sweep(name, Path(place).resolve()).run(int(at_most) if at_most else None)
    json.dump(found, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
