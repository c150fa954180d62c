"""Identify a process by tags, and tell whether the process of such tags still runs."""

from __future__ import annotations

import hashlib
import os
import socket
import uuid
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path

import psutil

from minivess.runtime.cgroups import text_of

HOST = "minivess.host"
MACHINE = "minivess.machine"
BOOT = "minivess.boot_id"
NAMESPACE = "minivess.pid_namespace"
PID = "minivess.pid"
STARTED = "minivess.process_start"


def identity() -> dict[str, str]:
    """Tags that name this process among all processes of all hosts."""
    return {
        HOST: socket.gethostname(),
        MACHINE: machine(),
        BOOT: boot_id(),
        NAMESPACE: namespace(),
        PID: str(os.getpid()),
        STARTED: started(os.getpid()) or "unknown",
    }


def is_here(tags: Mapping[str, str]) -> bool:
    """Whether the process that wrote these tags ran on this host."""
    return (tags.get(HOST), tags.get(MACHINE)) == (socket.gethostname(), machine())


def is_gone(tags: Mapping[str, str]) -> bool:
    """Whether the process that wrote these tags ran on this host and has ended.

    False in any doubt: another host, a container whose processes cannot be seen from here.
    """
    if not is_here(tags):
        return False
    if "unknown" not in (tags.get(BOOT, "unknown"), boot_id()) and tags[BOOT] != boot_id():
        return True
    if tags.get(NAMESPACE) != namespace() or not tags.get(PID, "").isdigit():
        return False
    return started(int(tags[PID])) != tags.get(STARTED)


def memory(tags: Mapping[str, str]) -> int | None:
    """Bytes in use by the process that wrote these tags; None where it is not seen from here."""
    if not is_here(tags) or tags.get(NAMESPACE) != namespace() or is_gone(tags):
        return None
    with suppress(psutil.Error):  # it may end meanwhile
        return int(psutil.Process(int(tags[PID])).memory_info().rss)
    return None


@cache
def machine() -> str:
    """Hash of the machine id, which differs between machines of one host name; else `unknown`."""
    for path in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        text = text_of(Path(path))
        if text:
            return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    return "unknown"


@cache
def boot_id() -> str:
    """An id that changes with each start of the machine."""
    text = text_of(Path("/proc/sys/kernel/random/boot_id"))
    if text:
        return text
    # Systems other than Linux have the boot time instead; a UUID keeps one format.
    return str(uuid.uuid5(uuid.NAMESPACE_OID, str(round(psutil.boot_time() / 60))))


@cache
def namespace() -> str:
    """The namespace of process numbers; containers have their own."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return "host"


def started(pid: int) -> str | None:
    """When a process started, in the kernel's own ticks; None if it has ended.

    Wall-clock start times move when the clock is set; ticks since boot do not. A process whose
    first thread has ended keeps its files and ports until its last one has.
    """
    text = text_of(Path(f"/proc/{pid}/stat"))
    if text:
        fields = text.rpartition(")")[2].split()
        threads = int(fields[17])
        return None if fields[0] == "X" or (fields[0] == "Z" and threads <= 1) else fields[19]
    if Path("/proc/self/stat").exists():
        return None
    return _started_elsewhere(pid)


def _started_elsewhere(pid: int) -> str | None:
    try:
        process = psutil.Process(pid)
        alive = process.status() != psutil.STATUS_ZOMBIE
        return f"{process.create_time():.2f}" if alive else None
    except psutil.NoSuchProcess:
        return None
    except psutil.AccessDenied:
        return "unknown"
