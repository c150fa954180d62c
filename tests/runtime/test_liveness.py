"""A process counts as ended once nothing of it is left."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from minivess.runtime import liveness

FIRST_THREAD_ENDS = """
import ctypes, sys, threading
threading.Thread(target=sys.stdin.readline).start()
ctypes.CDLL(None).pthread_exit(None)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="threads are read from /proc")
def test_a_process_runs_until_its_last_thread_has_ended() -> None:
    process = subprocess.Popen([sys.executable, "-c", FIRST_THREAD_ENDS], stdin=subprocess.PIPE)
    state = Path(f"/proc/{process.pid}/stat")
    try:
        started = liveness.started(process.pid)
        while state.read_text().rpartition(")")[2].split()[0] != "Z":
            assert process.poll() is None
        assert liveness.started(process.pid) == started
        assert process.stdin is not None
        process.stdin.close()
        while state.read_text().rpartition(")")[2].split()[17] != "1":
            pass
        assert liveness.started(process.pid) is None
    finally:
        process.kill()
        process.wait()
