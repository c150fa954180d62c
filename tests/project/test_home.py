"""The home folder: found again, refused when moved, locked while somebody writes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from minivess.errors import OrchestrationError
from minivess.home import lock, open_home

HOLDER = """
import sys
from pathlib import Path
from minivess.home import lock
with lock(Path(sys.argv[1]), what="just experiment"):
    print("held", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def held_by_another(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process holds the lock until it is told to stop, or killed."""
    other = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    try:
        yield other
    finally:
        other.communicate()


def test_opening_twice_finds_the_same_home(tmp_path: Path):
    first = open_home(tmp_path / "outputs")
    written = (first.root / "home.json").read_bytes()
    assert open_home(tmp_path / "outputs") == first
    assert (first.root / "home.json").read_bytes() == written


@pytest.mark.parametrize("name", ["a?b=c", "a%20b", "a{b}", "a\nb", "~nobody-of-this-name"])
def test_a_path_that_an_address_cannot_hold_is_refused_with_a_remedy(tmp_path: Path, name: str):
    with pytest.raises(OrchestrationError, match="MINIVESS_HOME=/path/to/folder"):
        open_home(Path(name) if name.startswith("~") else tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_nothing_but_the_marker_is_made_at_once(tmp_path: Path):
    assert [path.name for path in open_home(tmp_path / "outputs").root.iterdir()] == ["home.json"]


def test_a_moved_home_is_refused_with_its_old_place(tmp_path: Path):
    open_home(tmp_path / "old").root.rename(tmp_path / "new")
    with pytest.raises(OrchestrationError, match=str(tmp_path / "old")):
        open_home(tmp_path / "new")


@pytest.mark.parametrize("name", ["Läbor", "L\udce4bor"])
def test_a_home_whose_name_this_python_cannot_read_is_refused_and_not_taken_for_moved(
    tmp_path: Path, name: str
):
    with suppress(OrchestrationError):  # the second name is refused here, too
        open_home(tmp_path / name)
    code = "import sys; from minivess.home import *; open_home(Path(sys.argv[1]))"
    ascii_names = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0"}
    command = [sys.executable, "-c", code, str(tmp_path / name)]
    said = subprocess.run(command, env=ascii_names, capture_output=True, check=False).stderr
    assert b"takes names of files to be ascii" in said
    assert b"PYTHONUTF8=1" in said


def test_a_home_that_cannot_be_made_is_refused_naming_the_setting(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OrchestrationError, match="MINIVESS_HOME"):
        open_home(tmp_path / "file" / "outputs")


def test_contracts_hold_paths_relative_to_home(tmp_path: Path):
    home = open_home(tmp_path / "outputs")
    assert home.relative(home.cells / "abc" / "last.pth") == "cells/abc/last.pth"


def test_a_held_lock_is_refused_naming_its_holder(tmp_path: Path):
    path = tmp_path / "lock"
    with (
        held_by_another(path) as other,
        pytest.raises(OrchestrationError, match=f"`just experiment`.*pid {other.pid}"),
        lock(path, what="just train"),
    ):
        pass


def test_a_killed_holder_frees_the_lock(tmp_path: Path):
    path = tmp_path / "lock"
    with held_by_another(path) as other:
        other.send_signal(signal.SIGKILL)
        other.wait()
        with lock(path, what="just train"):
            assert json.loads(path.read_text())["what"] == "just train"


def test_waiting_ends_when_the_holder_leaves(tmp_path: Path):
    path = tmp_path / "lock"
    with held_by_another(path) as other:
        assert other.stdin is not None
        other.stdin.write("\n")
        other.stdin.flush()
        with lock(path, what="an event", wait=True):
            assert json.loads(path.read_text())["what"] == "an event"


def test_a_lock_is_free_after_an_error_inside(tmp_path: Path):
    path = tmp_path / "lock"
    with pytest.raises(ZeroDivisionError), lock(path, what="a"):
        raise ZeroDivisionError
    with lock(path, what="b"):
        pass
