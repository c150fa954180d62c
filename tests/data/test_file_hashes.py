"""Only files that changed are read again."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from minivess.data.versions.file_hashes import UNREADABLE, FileHashes


def old(path: Path, content: bytes, age_s: float = 3600) -> Path:
    """A file that was written a while ago."""
    path.write_bytes(content)
    then = path.stat().st_mtime - age_s
    os.utime(path, (then, then))
    return path


@pytest.fixture
def index(tmp_path: Path) -> FileHashes:
    return FileHashes(tmp_path / "cache" / "index.json")


def forge(index: FileHashes, path: Path) -> None:
    """Put a false hash into the index, so that a reading of the file shows."""
    true = hashlib.md5(path.read_bytes()).hexdigest()
    index.path.write_text(index.path.read_text().replace(true, "forged"))


def test_hashes_are_the_md5_of_the_bytes(tmp_path: Path, index: FileHashes) -> None:
    path = old(tmp_path / "a", b"vessel")
    assert index.hashes([path]) == {path: hashlib.md5(b"vessel").hexdigest()}


def test_an_unchanged_file_is_not_read_again_by_any_process(
    tmp_path: Path, index: FileHashes
) -> None:
    path = old(tmp_path / "a", b"vessel")
    index.hashes([path])
    forge(index, path)
    assert FileHashes(index.path).hashes([path])[path] == "forged"


def touch(path: Path) -> None:
    os.utime(path, (1, 1))


def replace(path: Path) -> None:
    status = path.stat()
    other = old(path.with_name("b"), b"VESSEL")
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(path)


def write_in_place(path: Path) -> None:
    status = path.stat()
    path.write_bytes(b"VESSEL")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("change", [touch, replace, write_in_place])
def test_another_time_or_inode_makes_it_read_again(
    tmp_path: Path, index: FileHashes, change
) -> None:
    path = old(tmp_path / "a", b"vessel")
    index.hashes([path])
    forge(index, path)
    change(path)
    assert index.hashes([path])[path] == hashlib.md5(path.read_bytes()).hexdigest()


def test_a_file_written_just_now_is_not_remembered(tmp_path: Path, index: FileHashes) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"one")
    first = index.hashes([path])
    status = path.stat()
    path.write_bytes(b"two")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert index.hashes([path]) != first


def test_a_damaged_index_costs_one_reading(tmp_path: Path, index: FileHashes) -> None:
    path = old(tmp_path / "a", b"vessel")
    before = index.hashes([path])
    index.path.write_text("{half")
    assert index.hashes([path]) == before


def test_files_that_are_gone_are_forgotten(tmp_path: Path, index: FileHashes) -> None:
    gone, kept = old(tmp_path / "a", b"1"), old(tmp_path / "b", b"2")
    index.hashes([gone])
    gone.unlink()
    index.hashes([kept])
    assert str(gone) not in index.path.read_text()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_does_not_stop_the_others(
    tmp_path: Path, index: FileHashes
) -> None:
    path, other = old(tmp_path / "a", b"1"), old(tmp_path / "b", b"2")
    path.chmod(0)
    hashes = index.hashes([path, other])
    assert hashes[path] == UNREADABLE
    assert hashes[other] == hashlib.md5(b"2").hexdigest()
