"""Nothing that happens to MLflow loses, doubles or disorders a value, or holds training up."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import faults

pytestmark = pytest.mark.slow


def test_a_storm_of_faults_loses_nothing_and_doubles_nothing(tmp_path: Path) -> None:
    given = faults.plan(24, seed=6, real=1)
    report = faults.storm(tmp_path, given, 6, print)
    assert sum(report.faults.values()) >= 22, report
    assert (report.lost, report.doubled, report.disordered, report.files_lost) == (0, 0, 0, 0)
    assert (report.runs_doubled, report.unfinished) == (0, 0), report
    assert report.values == report.runs * faults.STEPS * 10
    assert report.blocked < 0.005, report
