"""Real limits: a disk of some megabytes, and a control group in which the kernel kills."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from minivess.cli import main
from minivess.runtime.cgroups import control_groups
from tests.commands import Command

LIMITS = {"memory.max": "memory.current", "memory.limit_in_bytes": "memory.usage_in_bytes"}


@contextmanager
def memory_group() -> Iterator[Path]:
    """A control group of this test, or a skip where it may not make one."""
    own = control_groups("memory")
    group = own[0] / f"minivess-{uuid.uuid4().hex[:8]}" if own else Path("/nowhere")
    try:
        group.mkdir()
    except OSError:
        pytest.skip("this user may make no control groups")
    try:
        if not any((group / name).exists() for name in LIMITS):
            pytest.skip("control groups here limit no memory")
        yield group
    finally:
        group.rmdir()


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A disk of this size, or a skip where it may not be made."""
    folder.mkdir()
    words = ("-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder))
    if not mounted(*words):
        pytest.skip("only root may make a small disk here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def mounted(*words: str) -> bool:
    """Whether `mount` is there, may be used here, and did so."""
    if os.geteuid() or shutil.which("mount") is None:
        return False
    return subprocess.run(["mount", *words], check=False).returncode == 0


def fill(disk: Path) -> Path:
    """A file that takes all that is left."""
    with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))
    return disk / "filler"


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """A folder that may not be written: mounted so for root, whom permissions do not bind."""
    if os.geteuid() == 0:
        words = [["--bind", str(folder), str(folder)], ["-o", "remount,bind,ro", str(folder)]]
        if not all(mounted(*one) for one in words):
            pytest.skip("nothing can be mounted here")
        try:
            yield
        finally:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
        return
    tree = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    for path in tree:
        path.chmod(0o555)
    try:
        yield
    finally:
        for path in tree:
            path.chmod(0o755)


def inside(group: Path, words: list[str]) -> int:
    """Run the words in a control group from their first on."""
    (group / "cgroup.procs").write_text(str(os.getpid()))
    return main.main(words)


def starve(group: Path, command: Command) -> None:
    """Leave a process what it has and no more, until the kernel kills it for the next page.

    It stands still meanwhile: a quick training would be over before it is starved.
    """
    limit, used = next((group / a, group / b) for a, b in LIMITS.items() if (group / a).exists())
    while command.alive:
        command.send_signal(signal.SIGSTOP)
        with contextlib.suppress(OSError):  # version 1 refuses less than what is in use
            limit.write_text(used.read_text())
        command.send_signal(signal.SIGCONT)
        time.sleep(0.05)
