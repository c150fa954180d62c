"""MD5 of files, cached so that unchanged files are not read again.

A file whose path, size, inode and times of modification and change (ns) are as before has the
bytes as before. Copying tools set the first of these times, and nothing sets the second.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from minivess import files

SETTLED_NS = 2_000_000_000  # a file younger than this may change again within one clock tick
UNREADABLE = "unreadable"  # in place of a hash; measuring such a file says why
THREADS = 4


class FileHashes:
    """MD5 of files, cached in one JSON file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def hashes(self, paths: Iterable[Path]) -> dict[Path, str]:
        """Return the MD5 of each file; only files that changed since the last call are read.

        A file that may not be read has the hash `unreadable`; a missing one raises OSError.
        """
        known = self._read()
        wanted = list(dict.fromkeys(paths))
        marks = {path: _mark(path) for path in wanted}
        found = {
            path: known[str(path)]["md5"]
            for path in wanted
            if known.get(str(path), {}).get("mark") == marks[path]
        }
        changed = [path for path in wanted if path not in found]
        with ThreadPoolExecutor(THREADS) as pool:
            found.update(zip(changed, pool.map(_md5, changed), strict=True))
        if changed:
            self._remember({path: (found[path], marks[path]) for path in changed})
        return {path: found[path] for path in wanted}

    def _remember(self, changed: dict[Path, tuple[str, list[int]]]) -> None:
        # Read again: another process may have added files meanwhile; its entries stay.
        known = {name: entry for name, entry in self._read().items() if Path(name).exists()}
        now = time.time_ns()
        for path, (digest, mark) in changed.items():
            if digest != UNREADABLE and now - mark[1] > SETTLED_NS and mark == _mark(path):
                known[str(path)] = {"md5": digest, "mark": mark}
        files.write_json(self.path, known)

    def _read(self) -> dict[str, Any]:
        try:
            content = files.read_json(self.path)
        except (FileNotFoundError, ValueError):  # a lost or damaged index costs one reading
            return {}
        return content if isinstance(content, dict) else {}


def _md5(path: Path) -> str:
    try:
        return UNREADABLE if files.emptiness(path) else files.md5(path)
    except OSError:
        return UNREADABLE


def _mark(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns]
