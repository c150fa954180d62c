"""Whichever change to a file fails, nothing is lost, doubled or half believed afterwards."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.faults.nth_failure import Report, sweep

pytestmark = pytest.mark.slow

AT_MOST = {
    "Checkpoint": 40, "JournalOfRun": 45, "Pointers": 20, "FoldTable": 10, "Measurements": 10,
    "ReviewQueue": 12, "Workspace": 10, "Alias": 5, "UploadOfJournal": 8, "DataVersion": 10,
}  # fmt: skip
"""Faults made here; `python -m tests.faults.nth_failure` makes all of them."""


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Report]:
    """What came of the faults in each writer."""
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler (Debian: apt install gcc)")
    return sweep(tmp_path_factory.mktemp("faults"), AT_MOST)


@pytest.mark.parametrize("writer", AT_MOST)
def test_a_write_whose_nth_call_fails_keeps_the_laws_and_succeeds_the_next_time(
    reports: dict[str, Report], writer: str
) -> None:
    report = reports[writer]
    assert report["faults"] == AT_MOST[writer] <= 5 * report["calls"]
    assert report["wrong"] == []
    assert report["killed"] > 0


def test_the_sweep_notices_a_writer_that_is_not_atomic(tmp_path: Path) -> None:
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler (Debian: apt install gcc)")
    (found,) = sweep(tmp_path, {"InPlace": 12}).values()
    assert any("torn" in wrong for wrong in found["wrong"])
