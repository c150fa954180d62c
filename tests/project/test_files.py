"""Files are whole or absent."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from minivess import files
from minivess.errors import DiskFull

SIZE = 2_000_000
WRITER = f"""
import sys
from pathlib import Path
from minivess import files
from minivess.errors import DiskFull
target = Path(sys.argv[1])
print("ready", flush=True)
while True:
    for letter in "ab":
        files.write_text(target, letter * {SIZE})
"""


def names(folder: Path) -> list[str]:
    """What lies in a folder."""
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("delay", [0.0, 0.007, 0.031, 0.083])
def test_a_kill_while_writing_leaves_the_old_or_the_new_file(delay: float, tmp_path: Path):
    target = files.write_text(tmp_path / "file.txt", "a" * SIZE)
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(target)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(delay)
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
    assert target.read_text() in {"a" * SIZE, "b" * SIZE}


def test_a_failed_writer_leaves_the_old_file_alone(tmp_path: Path):
    target = files.write_text(tmp_path / "file.txt", "old")

    def fill(temporary: Path) -> None:
        temporary.write_text("half of the n")
        raise OSError(28, "No space left on device")

    with pytest.raises(DiskFull, match="no room left"):
        files.write(target, fill)
    assert target.read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


def test_the_temporary_name_keeps_the_suffix(tmp_path: Path):
    seen = []
    files.write(tmp_path / "mask.nii.gz", lambda path: (seen.append(path.name), path.touch()))
    assert seen[0].endswith("mask.nii.gz")
    assert names(tmp_path) == ["mask.nii.gz"]


def test_folders_are_made_on_the_way(tmp_path: Path):
    assert files.write_text(tmp_path / "a" / "b" / "c.txt", "é").read_bytes() == "é".encode()


def test_json_comes_back_as_it_was(tmp_path: Path):
    value = {"dice": 0.5, "volumes": ["a", None], "µm": True}
    assert files.read_json(files.write_json(tmp_path / "a.json", value)) == value


def test_infinity_is_no_json_and_leaves_the_old_file(tmp_path: Path):
    target = files.write_json(tmp_path / "a.json", 1)
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(target, float("inf"))
    assert files.read_json(target) == 1


def test_a_copy_has_the_bytes_and_not_the_mode(tmp_path: Path):
    source = tmp_path / "original.bin"
    source.write_bytes(bytes(range(256)))
    source.chmod(0o444)
    target = files.copy(source, tmp_path / "copy.bin")
    assert target.read_bytes() == source.read_bytes()
    assert target.stat().st_mode & 0o200


def test_md5_is_of_the_bytes(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"vessels")
    assert files.md5(tmp_path / "a") == hashlib.md5(b"vessels").hexdigest()
