"""Damaged files end in an answer or in one error of ours, in little time and memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import mutations

pytestmark = pytest.mark.slow

COUNT = 800


def test_ten_thousand_damaged_files_are_read_or_refused(tmp_path: Path) -> None:
    found = mutations.fuzz(tmp_path, COUNT)
    assert [(kind, wrong) for kind, each in found.items() for wrong in each["wrong"]] == []
    assert sum(each["refused"] + each["read"] for each in found.values()) >= 10_000
    # A door that refuses or takes everything would prove nothing.
    assert all(each["refused"] > 0 and each["read"] > 0 for each in found.values())


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("while True: pass", "SIGVTALRM"),
        ("bytearray(600_000_000)", "kB"),
        ("import os; os.abort()", "SIGABRT"),
        ("raise KeyError('x')", "KeyError"),
    ],
)
def test_a_reader_that_hangs_fills_memory_or_crashes_is_noticed(
    tmp_path: Path, fault: str, said: str
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"content")
    found = mutations.read_all(file, lambda path: exec(fault), count=2)
    assert found["wrong"]
    assert all(said in wrong["end"] for wrong in found["wrong"])
