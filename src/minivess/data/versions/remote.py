"""Datasets in remote storage (S3 and others that fsspec reads), mirrored below home.

All names are there at once, as empty stand-ins, so that files are paired before any is fetched.
Each fetched file is recorded with its size, tag and time in the storage; unchanged, it is not
fetched again. The storage is only ever read.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from minivess import files, keys
from minivess.errors import DataError, MinivessError
from minivess.home import lock

AT_ONCE = 8
TEXTS = (".json",)  # read while files are paired: dataset.json, groups.json
REMEDIES = {
    "s3": "look with `aws s3 ls`; AWS_PROFILE or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY give "
    "the right to read, AWS_ENDPOINT_URL another server, FSSPEC_S3_ANON=true means a public bucket"
}

Mark = list[Any]  # size, tag and time of one version of an object


class Mirror:
    """A folder below home that stands for a folder in storage."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url.rstrip("/")
        place = folder / keys.digest(self.url)[:12]
        self.root = place / PurePosixPath(self.url).name
        self._index = place / "index.json"
        self._lock = place / ".lock"
        self._marks: dict[str, Mark] = {}

    def listed(self) -> Path:
        """List every name of the storage as a folder of empty files; only small texts are fetched.

        Raises:
            DataError: no such place, no right to read it, no package or network to reach it.
        """
        with lock(self._lock, what="list", wait=True):
            with _translated(self.url):
                self._marks = _marks(*self._storage)
            if not self._marks:
                raise DataError(
                    f"{self.url} holds no files.", remedy="data.root=s3://bucket/folder"
                )
            there = {p.relative_to(self.root).as_posix() for p in _files(self.root)}
            for name in there - self._marks.keys():
                (self.root / name).unlink()
            for name in self._marks.keys() - there:
                (self.root / name).parent.mkdir(parents=True, exist_ok=True)
                (self.root / name).touch()
        self.fetch(self.root / name for name in self._marks if name.endswith(TEXTS))
        return self.root

    def fetch(
        self, paths: Iterable[Path], on_file: Callable[[int, int], object] = lambda *_: None
    ) -> int:
        """Fetch the content of these files; return how many had to be fetched.

        `on_file(done, total)` is called after each.

        Raises:
            DataError: the disk is too small, or the storage fails.
        """
        names = [path.relative_to(self.root).as_posix() for path in paths]
        with lock(self._lock, what="fetch", wait=True):
            known = self._known()
            wanted = [name for name in names if known.get(name) != self._marks[name]]
            self._check_disk(wanted)
            fetched: list[str] = []
            try:
                with _translated(self.url), ThreadPoolExecutor(AT_ONCE) as pool:
                    for name in pool.map(self._fetch, wanted):
                        fetched.append(name)
                        on_file(len(fetched), len(wanted))
            finally:
                if fetched:
                    known.update((name, self._marks[name]) for name in fetched)
                    files.write_json(self._index, known)
        return len(wanted)

    @cached_property
    def _storage(self) -> tuple[Any, str]:
        from fsspec.core import url_to_fs

        # Neither what was listed before nor the rights and servers of before.
        system, path = url_to_fs(self.url, use_listings_cache=False, skip_instance_cache=True)
        return system, str(path)

    def _fetch(self, name: str) -> str:
        system, path = self._storage
        target = files.write(
            self.root / name,
            lambda temporary: system.get_file(f"{path}/{name}", str(temporary)),
        )
        if target.stat().st_size != self._marks[name][0]:
            raise DataError(
                f"{self.url}/{name} changed while it was fetched.", remedy="run the same again"
            )
        return name

    def _known(self) -> dict[str, Mark]:
        """Return the marks of files that are complete here."""
        try:
            marks: Mapping[str, Mark] = files.read_json(self._index)
            sizes = {name: (self.root / name).stat().st_size for name in self._marks}
            return {
                n: m for n, m in marks.items() if n in sizes and any(m[1:]) and sizes[n] == m[0]
            }
        except (FileNotFoundError, ValueError, AttributeError, TypeError, IndexError):
            return {}

    def _check_disk(self, names: Iterable[str]) -> None:
        needed = sum(self._marks[name][0] for name in names)
        free = shutil.disk_usage(self.root).free
        if needed > free:
            raise DataError(
                f"{self.url} has {needed / 1e9:.1f} GB to fetch, and {free / 1e9:.1f} GB are free "
                f"below {self.root.parent}.",
                remedy="MINIVESS_HOME=/path/on/a/larger/disk",
            )


def _files(root: Path) -> Iterator[Path]:
    return (path for path in root.rglob("*") if path.is_file())


def _marks(system: Any, path: str) -> dict[str, Mark]:
    """Return size, tag and time of the version of each name below `path`."""
    found = {
        PurePosixPath(place).relative_to(path).as_posix(): _mark(entry)
        for place, entry in system.find(path, detail=True).items()
        if place != path and entry["type"] == "file"
    }
    folders = {parent.as_posix() for name in found for parent in PurePosixPath(name).parents}
    # Keys are free texts: one that leads out of the folder, or stands for a folder, is no file.
    return {n: m for n, m in found.items() if ".." not in n.split("/") and n not in folders}


def _mark(entry: Mapping[str, Any]) -> Mark:
    def first(*fields: str) -> str:
        return str(next((entry[field] for field in fields if entry.get(field)), ""))

    tag = first("ETag", "etag", "md5Hash", "checksum")
    return [int(entry["size"]), tag, first("LastModified", "last_modified", "updated", "mtime")]


@contextmanager
def _translated(url: str) -> Iterator[None]:
    """Translate the errors of each storage's client."""
    scheme = url.partition("://")[0]
    remedy = REMEDIES.get(scheme, f"correct the address, or the access rights of {scheme}")
    try:
        yield
    except MinivessError:
        raise
    except ImportError as error:
        own = "just setup s3 (in an environment of your own: pip install dvc-s3)"
        remedy = own if scheme == "s3" else "pip install 'fsspec[full]'"
        raise DataError(f"{url} cannot be read: {error}.", remedy=remedy) from error
    except FileNotFoundError as error:
        raise DataError(f"There is no {url}.", remedy=remedy) from error
    except Exception as error:  # each storage's client raises its own types
        raise DataError(
            f"{url} cannot be read: {type(error).__name__}: {error}", remedy=remedy
        ) from error
