"""Detect whether the Linux OOM killer ended a process (cgroup oom_kill counters, kernel log)."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from minivess.runtime import liveness
from minivess.runtime.cgroups import control_groups

BEFORE = "minivess.oom_kills_before"
AFTER = "minivess.oom_kills_after"
MACHINE = Path("/proc/vmstat")
LOG = Path("/dev/kmsg")
LOG_RECORD = 8192
# The kernel gives its first process namespace this fixed number; only there are pids the log's.
FIRST_NAMESPACE = "pid:[4026531836]"
KILLED = re.compile(r"Killed process (\d+)\b")

Counts = dict[str, int]
"""File -> processes killed for memory, the narrowest control group first, the machine last."""


def tags() -> dict[str, str]:
    """Counters of kills as tags, noted when a run starts."""
    return {BEFORE: json.dumps(counts(_files()))}


def verdict(noted: Mapping[str, str], log: Path = LOG) -> tuple[bool, dict[str, str]]:
    """Whether the dead process of a run was killed for memory, and tags with the evidence.

    The narrowest counter that is still there must have grown since the run began. Where the
    kernel's log can be read and names victims, the process has to be among them.
    """
    before: Counts = json.loads(noted.get(BEFORE, "{}"))
    after = counts([Path(file) for file in before])
    evidence = {AFTER: json.dumps(after)} if after else {}
    narrowest = next(iter(after), None)
    grown = narrowest is not None and after[narrowest] > before[narrowest]
    if noted.get(liveness.BOOT) != liveness.boot_id() or not grown:
        return False, evidence
    named = victims(log) if noted.get(liveness.NAMESPACE) == FIRST_NAMESPACE else frozenset()
    return not named or int(noted.get(liveness.PID, 0)) in named, evidence


# --- the kernel's counters and its log ----------------------------------------------------


@cache
def _files() -> tuple[Path, ...]:
    """Files that count kills: the control groups of this process, then the whole machine.

    A group of version 2 includes the groups inside it, one of version 1 counts only itself.
    """
    groups = control_groups("memory")
    nested = [group / "memory.events" for group in groups]
    own = [group / "memory.oom_control" for group in groups[:1]]
    return (*(file for file in (*own, *nested) if file.is_file()), MACHINE)


def counts(files: tuple[Path, ...] | list[Path]) -> Counts:
    """The counter `oom_kill` of each file that has one."""
    found: Counts = {}
    for file in files:
        try:
            pairs = [line.split() for line in file.read_text(encoding="utf-8").splitlines()]
        except OSError:
            continue
        found |= {str(file): int(pair[1]) for pair in pairs if pair[:1] == ["oom_kill"]}
    return found


def victims(log: Path) -> frozenset[int]:
    """Process numbers that the kernel's log names as killed; empty where it may not be read."""
    try:
        reader = os.open(log, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return frozenset()
    try:
        return frozenset(_pids(reader))
    finally:
        os.close(reader)


def _pids(reader: int) -> list[int]:
    """One record for each read until none is left; the oldest may be overwritten meanwhile."""
    found: list[int] = []
    while True:
        try:
            record = os.read(reader, LOG_RECORD)
        except BrokenPipeError:
            continue
        except OSError:
            return found
        if not record:
            return found
        found += [int(pid) for pid in KILLED.findall(record.decode(errors="replace"))]
