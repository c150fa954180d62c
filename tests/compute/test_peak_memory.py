"""What was really taken, beside what was expected."""

from __future__ import annotations

import sys

import pytest
import torch

from minivess.compute.reporting import forecast, peak_memory
from minivess.contracts import Forecast


@pytest.mark.skipif(sys.platform != "linux", reason="other systems keep one peak for good")
def test_the_peak_is_that_of_the_work_since_it_was_reset() -> None:
    torch.ones(64 * 1024**2).sum()
    peak_memory.reset_peak("cpu")
    before = peak_memory.peak_gb("cpu")
    torch.ones(32 * 1024**2).sum()
    assert peak_memory.peak_gb("cpu") - before == pytest.approx(0.125, abs=0.03)
    assert peak_memory.held_gb() == pytest.approx(before, abs=0.03)


def test_the_forecast_of_a_cell_is_its_share_of_the_grid() -> None:
    cost = Forecast(
        cells=4, seconds_per_step=0.1, seconds_per_epoch=2, total_hours=1, ram_gb=3, disk_gb=1,
        method="timed",
    )  # fmt: skip
    assert forecast.forecast_metrics(cost, epochs=10) == {
        "forecast_seconds_per_epoch": 2,
        "forecast_seconds": 20,
        "forecast_ram_gb": 3,
        "forecast_vram_gb": 0,
        "forecast_disk_gb": 0.25,
    }
