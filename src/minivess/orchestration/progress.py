"""How far a grid is: bars on a terminal, one line for each epoch, and the time that is left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from minivess.training.monitoring.watchdog import Beat

Say = Callable[[str], None]


class Board:
    """The cells of one command; `live` draws bars, which needs a terminal."""

    def __init__(self, say: Say, *, live: bool) -> None:
        self.say, self.live = say, live
        self.cells, self.done = 0, 0
        self._took: list[float] = []

    def expect(self, cells: int) -> None:
        """So many cells are to train."""
        self.cells += cells

    @contextmanager
    def cell(self, title: str) -> Iterator[Row]:
        """What is shown while one cell trains."""
        row = Row(self, title)
        with self._bars(row):
            yield row
        self.done += 1
        self._took.append(row.seconds)

    def left_s(self, cell_left_s: float, cell_s: float) -> float:
        """Seconds left for all cells, each as long as those before, or as this one promises."""
        usual = sum(self._took) / len(self._took) if self._took else cell_s
        return cell_left_s + max(0, self.cells - self.done - 1) * usual

    def ended(self, cells: int, of: int, seconds: float) -> None:
        """Say how far cells are that train side by side, `seconds` after the first began."""
        from minivess.training.monitoring.watchdog import duration

        left = f", about {duration(seconds / cells * (of - cells))} left" if cells < of else ""
        self.say(f"  {cells} of {of} cells have ended{left}")

    @contextmanager
    def _bars(self, row: Row) -> Iterator[None]:
        if not self.live:
            yield
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        text, left = TextColumn("{task.description}"), TextColumn("{task.fields[left]}")
        console = Console(force_terminal=True)  # whoever asked for bars has looked
        with Progress(text, BarColumn(), left, console=console, transient=True) as bars:
            cell = bars.add_task(f"  {row.title}", total=1.0, left="")
            grid = bars.add_task("  all cells", total=max(self.cells, 1), left="")

            def move(beat: Beat) -> None:
                own, everything = row.left(beat)
                bars.update(cell, completed=share(beat), left=own)
                bars.update(grid, completed=self.done + share(beat), left=everything)

            row.beat = move
            yield


class Row:
    """One cell's part of the board."""

    def __init__(self, board: Board, title: str) -> None:
        self.board, self.title = board, title
        self.beat: Callable[[Beat], None] = lambda beat: None
        self._begun = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the cell began here."""
        return time.monotonic() - self._begun

    def epoch(self, beat: Beat, shown: str) -> None:
        """Say one line about an epoch."""
        left = ", ".join(filter(None, self.left(beat)))
        self.board.say(f"  {self.title} epoch {beat.epoch + 1}/{beat.epochs}  {shown}  {left}")

    def left(self, beat: Beat) -> tuple[str, str]:
        """What is left of the cell and of all, as people say it; empty where not known."""
        from minivess.training.monitoring.watchdog import duration

        if beat.left_s is None:
            return "", ""
        if not self.board.cells:  # one of several processes, which knows of its own cell only
            return f"{duration(beat.left_s)} left", ""
        everything = self.board.left_s(beat.left_s, self.seconds + beat.left_s)
        return f"{duration(beat.left_s)} left", f"{duration(everything)} for all cells"


def share(beat: Beat) -> float:
    """How much of a cell is done, from 0 to 1."""
    return (beat.epoch + beat.step / max(beat.steps, 1)) / max(beat.epochs, 1)
