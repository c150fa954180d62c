"""A server ends by itself once nothing uses it, whatever became of those that did."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from minivess.home import used
from minivess.runtime.idle import LOOK_S, USERS
from tests.faults.limits import read_only

pytestmark = pytest.mark.slow

Served = subprocess.Popen[bytes]
USE = (
    "import sys, time; from pathlib import Path; from minivess.home import used\n"
    "with used(Path(sys.argv[1])): print(flush=True); time.sleep(600)"
)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[float], Served]]:
    """Serve a folder with Python's own server, which ends after so many idle seconds."""
    begun: list[Served] = []
    folder = tmp_path / "folder"
    folder.mkdir()

    def start(idle_s: float) -> Served:
        words = ("-m", "minivess.runtime.idle", str(folder), str(idle_s), "http.server", "0")
        begun.append(
            subprocess.Popen([sys.executable, *words], cwd=tmp_path, stderr=subprocess.DEVNULL)
        )
        return begun[-1]

    yield start
    for one in begun:
        one.kill()
        one.wait()


def test_it_stays_while_it_is_used_and_ends_when_the_last_user_is_killed(
    serve: Callable[[float], Served], tmp_path: Path
) -> None:
    users = tmp_path / "folder" / USERS
    with used(users):
        server = serve(0)
        words = [sys.executable, "-c", USE, str(users)]
        other = subprocess.Popen(words, stdout=subprocess.PIPE)
        assert other.stdout is not None
        other.stdout.readline()
    time.sleep(2.5 * LOOK_S)
    assert server.poll() is None
    os.kill(other.pid, signal.SIGKILL)
    other.communicate()
    assert server.wait(60) == -signal.SIGTERM


@pytest.mark.parametrize("what", ["is deleted", "may only be read"])
def test_it_ends_when_its_folder(
    serve: Callable[[float], Served], tmp_path: Path, what: str
) -> None:
    folder = tmp_path / "folder"
    with ExitStack() as use, ExitStack() as stack:
        use.enter_context(used(folder / USERS))
        server = serve(0)
        if what == "is deleted":
            shutil.rmtree(folder)
        else:
            stack.enter_context(read_only(folder))
            use.close()
        assert server.wait(60) == -signal.SIGTERM
