"""What a user sees of a grid that trains."""

from __future__ import annotations

import re
import time

import pytest

from minivess.orchestration.progress import GridProgress
from minivess.training.monitoring.watchdog import ProgressEvent


def test_without_a_terminal_each_epoch_is_one_plain_line_with_the_time_left() -> None:
    lines: list[str] = []
    progress = GridProgress(lines.append, live=False)
    progress.expect(3)
    with progress.cell("dynunet fold 0") as row:
        row.beat(ProgressEvent(0, 10, 2, 4, None))
        row.epoch(ProgressEvent(0, 10, 4, 4, 80.0), "val_dice 0.500")
    assert len(lines) == 1
    # Two more cells of 80 s follow, and nothing was waited for yet.
    assert lines[0] == "  dynunet fold 0 epoch 1/10  val_dice 0.500  80 s left, 4 min for all cells"


def test_cells_that_are_done_or_reused_are_not_waited_for() -> None:
    progress = GridProgress(lambda _: None, live=False)
    progress.expect(3)
    progress.expect(-1)
    with progress.cell("first"):
        assert progress.left_s(10, 60) == 70
    with progress.cell("second"):
        assert progress.left_s(10, 60) == 10


def test_a_process_that_trains_one_of_many_cells_speaks_of_its_own_only() -> None:
    lines: list[str] = []
    progress = GridProgress(lines.append, live=False)
    with progress.cell("dynunet fold 0") as row:
        row.epoch(ProgressEvent(0, 10, 4, 4, 80.0), "val_dice 0.500")
    assert lines == ["  dynunet fold 0 epoch 1/10  val_dice 0.500  80 s left"]


def test_what_is_over_has_no_time_left() -> None:
    lines: list[str] = []
    progress = GridProgress(lines.append, live=False)
    progress.expect(2)
    for title in ("first", "second"):
        with progress.cell(title) as row:
            row.epoch(ProgressEvent(9, 10, 4, 4, 0.0), "val_dice 0.500")
    assert lines == [
        "  first epoch 10/10  val_dice 0.500  <1 s left for all cells",
        "  second epoch 10/10  val_dice 0.500",
    ]


def test_cells_side_by_side_are_counted_with_the_time_left_for_all() -> None:
    lines: list[str] = []
    progress = GridProgress(lines.append, live=False)
    progress.ended(2, 6, 300.0)
    progress.ended(6, 6, 900.0)
    progress.ended(1, 4, 100.0, at_once=2)
    assert lines.pop().endswith("about 2 min left")
    assert lines == ["  2 of 6 cells have ended, about 10 min left", "  6 of 6 cells have ended"]


def test_on_a_terminal_bars_show_the_cell_and_the_grid(capsys) -> None:
    progress = GridProgress(print, live=True)
    progress.expect(2)
    with progress.cell("dynunet fold 0") as row:
        row.beat(ProgressEvent(4, 10, 2, 4, 300.0))
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().out)
    assert "dynunet fold 0" in shown
    assert "all cells" in shown


def test_uneven_epochs_make_what_is_left_a_range(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    grid = GridProgress(lines.append, live=False)
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with grid.cell("dynunet fold 0") as row:
        for epoch, seconds in enumerate((10.0, 10.0, 40.0)):
            now += seconds
            row.epoch(ProgressEvent(epoch, 10, 4, 4, 60.0), "")
    assert lines[1].endswith("60 s left")
    assert lines[2].endswith("30 s to 2 min left")
