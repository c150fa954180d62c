"""Whether the kernel killed a process for its memory: what counts as evidence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from minivess.runtime import liveness, oom

PID = 4711
RECORD = "3,2171,6059611365,-;{}: Killed process {} (python) total-vm:211880kB, UID:0\n"


def counter(path: Path, kills: int) -> Path:
    """A group's counters as the kernel writes them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"low 0\nhigh 0\nmax 12\noom {kills}\noom_kill {kills}\n")
    return path


def log(path: Path, *pids: int) -> Path:
    """The kernel's log; without pids it is not there."""
    lines = [RECORD.format("Memory cgroup out of memory", pid) for pid in pids]
    if pids:
        path.write_text("6,1,0,-;Linux version 6.18\n" + "".join(lines))
    return path


@pytest.mark.parametrize(("kills", "named", "expected"), [
    (0, (), False),
    (0, (PID,), False),  # an older process of the same number
    (1, (), True),  # the log may not be read
    (1, (12, PID), True),
    (1, (12,), False),  # somebody else was killed
])  # fmt: skip
def test_the_counter_has_to_grow_and_a_readable_log_to_name_the_process(
    tmp_path: Path, kills: int, named: tuple[int, ...], expected: bool
) -> None:
    file = counter(tmp_path / "job" / "memory.events", kills)
    noted = {
        **liveness.identity(),
        liveness.PID: str(PID),
        oom.BEFORE: json.dumps({str(file): 0}),
    }
    noted[liveness.NAMESPACE] = oom.FIRST_NAMESPACE
    found, evidence = oom.verdict(noted, log(tmp_path / "kmsg", *named))
    assert found is expected
    assert json.loads(evidence[oom.AFTER]) == {str(file): kills}


def test_the_narrowest_counter_that_is_still_there_decides(tmp_path: Path) -> None:
    gone, own, machine = (tmp_path / name for name in ("gone", "own", "vmstat"))
    counter(own, 0)
    counter(machine, 3)  # elsewhere on this machine memory ran out
    before = {str(gone): 0, str(own): 0, str(machine): 1}
    noted = {**liveness.identity(), oom.BEFORE: json.dumps(before)}
    assert oom.verdict(noted, tmp_path / "kmsg")[0] is False
    own.unlink()
    assert oom.verdict(noted, tmp_path / "kmsg")[0] is True


def test_a_restart_of_the_machine_is_no_kill(tmp_path: Path) -> None:
    file = counter(tmp_path / "memory.events", 5)
    noted = {
        **liveness.identity(),
        oom.BEFORE: json.dumps({str(file): 0}),
        liveness.BOOT: "before",
    }
    assert oom.verdict(noted, tmp_path / "kmsg")[0] is False


def test_a_run_that_noted_nothing_died_of_nothing_known() -> None:
    assert oom.verdict({**liveness.identity()}) == (False, {})


def test_this_machine_counts_kills() -> None:
    if not oom.MACHINE.exists():
        pytest.skip("no /proc/vmstat here")
    assert str(oom.MACHINE) in json.loads(oom.tags()[oom.BEFORE])
