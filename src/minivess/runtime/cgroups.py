"""Control groups of Linux: which hold this process, and what cores and memory they grant."""

from __future__ import annotations

from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
GIB = 1024**3
UNLIMITED = 2**60
"""Version 1 of control groups writes a number near 2**63 where there is no limit."""


def control_groups(
    controller: str, *, table: Path = Path("/proc/self/cgroup"), root: Path = CGROUP
) -> list[Path]:
    """Folders of this process's control groups, v2 and v1, inner ones first.

    A container often sees its own group as the root, so the root is looked at too.
    """
    found: list[Path] = []
    for line in text_of(table).splitlines():
        _, controllers, inside = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        base = root / controllers if controllers else root
        group = base / inside.strip("/")
        found += [place for place in (group, *group.parents) if place.is_relative_to(base)]
    return [place for place in found if place.is_dir()]


def cpu_quota(group: Path) -> float | None:
    """Cores that a control group grants, None without a limit."""
    words = text_of(group / "cpu.max").split() or [
        text_of(group / "cpu.cfs_quota_us"),
        text_of(group / "cpu.cfs_period_us"),
    ]
    if len(words) != 2 or not all(word.isdigit() for word in words):
        return None
    return int(words[0]) / int(words[1])


def memory_limit(group: Path) -> tuple[float, float] | None:
    """(limit, used) GiB of a control group, None without a limit.

    File cache counts as free: the kernel gives it back before it refuses memory.
    """
    for limit_name, used_name, cached in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        limit, used = text_of(group / limit_name), text_of(group / used_name)
        if limit.isdigit() and used.isdigit() and int(limit) < UNLIMITED:
            reclaimable = _statistic(group / "memory.stat", cached)
            return int(limit) / GIB, max(0, int(used) - reclaimable) / GIB
    return None


def _statistic(file: Path, name: str) -> int:
    pairs = (line.split() for line in text_of(file).splitlines())
    return next((int(pair[1]) for pair in pairs if pair[:1] == [name]), 0)


def text_of(file: Path) -> str:
    """A file of /proc or /sys; empty where it cannot be read."""
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
