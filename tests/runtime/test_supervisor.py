from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from minivess.config import child_environment
from minivess.runtime import processes

pytestmark = pytest.mark.slow

# Like BentoML: a server whose worker leads a session of its own and ignores polite words.
SERVER = """
import subprocess, sys, time
worker = subprocess.Popen([sys.executable, "-c", "import signal, time; "
    "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"], start_new_session=True)
open(sys.argv[1] + ".new", "w").write(str(worker.pid))
__import__("os").rename(sys.argv[1] + ".new", sys.argv[1])
time.sleep(600)
"""
CLIENT = """
import sys, time
from pathlib import Path
from minivess.config import child_environment
from minivess.runtime import processes
log = Path(sys.argv[-1]).with_name("log")
with processes.supervised(sys.argv[1:], child_environment(), log):
    time.sleep(600)
"""


def worker_of(path: Path) -> psutil.Process:
    """The worker, once the server has started it."""
    return psutil.Process(int(eventually(lambda: path.exists() and path.read_text())))


def eventually(question: object, seconds: float = 300) -> str:
    """Ask until the answer is true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if answer := question():  # type: ignore[operator]
            return str(answer)
        time.sleep(0.05)
    raise AssertionError(question)


def gone(process: psutil.Process) -> bool:
    """Whether a process has ended; nobody may have collected it yet."""
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("leaving", [KeyboardInterrupt, RuntimeError, SystemExit])
def test_leaving_ends_workers_in_other_sessions(
    leaving: type[BaseException], tmp_path: Path
) -> None:
    command = [sys.executable, "-c", SERVER, str(tmp_path / "pid")]
    workers = []

    def work() -> None:
        with processes.supervised(command, child_environment(), tmp_path / "log"):
            workers.append(worker_of(tmp_path / "pid"))
            raise leaving

    with pytest.raises(leaving):
        work()
    assert gone(workers[0])


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_parent_takes_the_server_and_its_workers_along(
    number: signal.Signals, tmp_path: Path
) -> None:
    server = [sys.executable, "-c", SERVER, str(tmp_path / "pid")]
    parent = subprocess.Popen([sys.executable, "-c", CLIENT, *server], env=child_environment())
    worker = worker_of(tmp_path / "pid")
    os.kill(parent.pid, number)
    parent.wait()
    eventually(lambda: gone(worker))


def test_a_command_that_ends_by_itself_hands_on_its_status(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "print('hello'); raise SystemExit(3)"]
    with processes.supervised(command, child_environment(), tmp_path / "log") as process:
        assert process.wait(300) == 3
    assert (tmp_path / "log").read_text() == "hello\n"
