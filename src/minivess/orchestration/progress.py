"""Progress of a grid: bars on a terminal, one line per epoch, and the time left."""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from minivess.training.monitoring.watchdog import duration

if TYPE_CHECKING:
    from minivess.training.monitoring.watchdog import ProgressEvent


RECENT, FEWEST = 5, 3
"""Epochs whose pace gives the range of what is left, and how few of them say something."""
STEADY = 1.1
"""Where no epoch takes longer than this times the mean, what is left is one figure."""


class GridProgress:
    """Progress of the cells of one command.

    Args:
        write: prints a line.
        live: draw bars, which needs a terminal.
    """

    def __init__(self, write: Callable[[str], None], *, live: bool) -> None:
        self.write, self.live = write, live
        self.cells, self.done = 0, 0
        self._took: list[float] = []

    def expect(self, cells: int) -> None:
        """Add cells that will train; a negative number removes some."""
        self.cells += cells

    @contextmanager
    def cell(self, title: str) -> Iterator[CellProgress]:
        """Progress of one cell, for the time that it trains."""
        cell = CellProgress(self, title)
        with self._bars(cell):
            yield cell
        self.done += 1
        self._took.append(cell.seconds)

    def left_s(self, cell_left_s: float, cell_s: float) -> float:
        """Seconds left for all cells, each as long as the mean so far, or else as this one."""
        usual = statistics.fmean(self._took) if self._took else cell_s
        return cell_left_s + max(0, self.cells - self.done - 1) * usual

    def ended(self, cells: int, of: int, seconds: float, at_once: int = 1) -> None:
        """Print how many parallel cells have ended, `seconds` after the first one started."""
        each = seconds / math.ceil(cells / at_once)
        left = f", about {duration(each * (of - cells) / at_once)} left" if cells < of else ""
        self.write(f"  {cells} of {of} cells have ended{left}")

    @contextmanager
    def _bars(self, cell: CellProgress) -> Iterator[None]:
        if not self.live:
            yield
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        text, left = TextColumn("{task.description}"), TextColumn("{task.fields[left]}")
        console = Console(force_terminal=True)  # `live` was decided by looking at the terminal
        with Progress(text, BarColumn(), left, console=console, transient=True) as bars:
            own = bars.add_task(f"  {cell.title}", total=1.0, left="")
            grid = bars.add_task("  all cells", total=max(self.cells, 1), left="")

            def move(beat: ProgressEvent) -> None:
                of_cell, of_all = cell.left(beat)
                bars.update(own, completed=share(beat), left=of_cell)
                bars.update(grid, completed=self.done + share(beat), left=of_all)

            cell.beat = move
            yield


class CellProgress:
    """Progress of one cell; `beat` moves its bar."""

    def __init__(self, grid: GridProgress, title: str) -> None:
        self.grid, self.title = grid, title
        self.beat: Callable[[ProgressEvent], None] = lambda beat: None
        self._began = self._ended = time.monotonic()
        self._epochs: deque[float] = deque(maxlen=RECENT)

    @property
    def seconds(self) -> float:
        """Seconds since the cell started here."""
        return time.monotonic() - self._began

    def epoch(self, beat: ProgressEvent, shown: str) -> None:
        """Print one line about an epoch; `shown` are its metrics."""
        now = time.monotonic()
        self._epochs.append(now - self._ended)
        self._ended = now
        left = ", ".join(filter(None, self.left(beat)))
        line = f"  {self.title} epoch {beat.epoch + 1}/{beat.epochs}  {shown}  {left}"
        self.grid.write(line.rstrip())

    def left(self, beat: ProgressEvent) -> tuple[str, str]:
        """Time left of the cell and of all cells as text; empty where not known, or over."""
        if beat.left_s is None:
            return "", ""
        own = f"{self._span(beat.left_s)} left" if beat.left_s else ""
        if not self.grid.cells:  # one of several processes, which knows only its own cell
            return own, ""
        everything = self.grid.left_s(beat.left_s, self.seconds + beat.left_s)
        left = "" if own else "left "
        return own, f"{self._span(everything)} {left}for all cells" if everything else ""

    def _span(self, seconds: float) -> str:
        """What is left at the pace of the fastest and of the slowest of the recent epochs."""
        usual = statistics.fmean(self._epochs) if len(self._epochs) >= FEWEST else 0.0
        if not usual or max(self._epochs) < STEADY * usual:
            return duration(seconds)
        ends = (min(self._epochs), max(self._epochs))
        low, high = (duration(end / usual * seconds) for end in ends)
        return high if low == high else f"{low} to {high}"


def share(beat: ProgressEvent) -> float:
    """The part of a cell that is done, from 0 to 1."""
    return (beat.epoch + beat.step / max(beat.steps, 1)) / max(beat.epochs, 1)
