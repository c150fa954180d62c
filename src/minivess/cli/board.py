"""What runs, as a board that fills the terminal, or as lines where there is none."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from minivess.orchestration.session import Session
from minivess.text import format_duration, format_size
from minivess.upkeep.status import Running, Status

FOLLOW_S = 5.0
SHOWN_METRICS = ("train_loss", "val_loss", "val_dice")
BARS, PLAIN_BARS, WIDTH = "▁▂▃▄▅▆▇█", "_.-=*#", 10
COLUMNS = ("run", "epoch", "", "left", "since", "memory", "val_dice", "latest")
NARROW, FEW = 100, ("run", "epoch", "left", "val_dice")
"""Columns of a terminal below which there are few."""


def follow(
    session: Session, look: Callable[[], Status], lines_of: Callable[[Status], Sequence[str]]
) -> NoReturn:
    """Show the status until Ctrl-C; lines without a terminal, and those only when they change."""
    console = Console()
    if not console.is_terminal or console.is_dumb_terminal:
        _repeat(look, _printer(session, lines_of))
    with Live(console=console, screen=True, refresh_per_second=2) as live:  # also after a resize
        _repeat(look, lambda found: live.update(_board(found, lines_of(found), console)))


def _repeat(look: Callable[[], Status], show: Callable[[Status], None]) -> NoReturn:
    while True:
        begun = time.monotonic()
        show(look())
        # A store that is slow to read is read less often.
        time.sleep(max(FOLLOW_S, 5 * (time.monotonic() - begun)))


def _printer(
    session: Session, lines_of: Callable[[Status], Sequence[str]]
) -> Callable[[Status], None]:
    shown: list[str] = []

    def show(found: Status) -> None:
        lines = list(lines_of(found))
        for line in lines if lines != shown else ():
            session.print(line)
        shown[:] = lines

    return show


def _board(found: Status, lines: Sequence[str], console: Console) -> Group:
    """A row for each run that goes on, above all that is no run."""
    shown = FEW if console.width < NARROW else COLUMNS
    table = Table(*shown, expand=True)
    bars = BARS if console.encoding.startswith("utf") else PLAIN_BARS
    for one in found.running:
        cells = dict(zip(COLUMNS, _row(one, bars), strict=True))
        table.add_row(*(cells[name] for name in shown))
    told = [Text(line) for line in lines if not line.startswith("  runs ")]
    at = time.strftime("%H:%M:%S")
    return Group(f"minivess, {at}; Ctrl-C ends this view alone", table, *told)


def curve(values: Sequence[float], bars: str = PLAIN_BARS) -> str:
    """The last values as marks from lowest to highest, `?` where there is no number."""
    last = values[-WIDTH:]
    known = [value for value in last if math.isfinite(value)]
    low, span = min(known, default=0.0), max(known, default=0.0) - min(known, default=0.0)
    return "".join(
        bars[round((value - low) / (span or 1.0) * (len(bars) - 1))]
        if math.isfinite(value)
        else "?"
        for value in last
    )


def _row(one: Running, bars: str) -> tuple[str | Text | ProgressBar, ...]:
    done, total = one.epochs or (0, 0)
    latest = (f"{m} {one.record.metrics[m]:.3g}" for m in SHOWN_METRICS if m in one.record.metrics)
    return (
        Text(one.record.name),
        f"{done}/{total}" if total else "",
        ProgressBar(total, done, width=12) if total else "",
        "" if one.eta_s is None else format_duration(one.eta_s),
        format_duration(one.seconds),
        "" if one.memory is None else format_size(one.memory),
        curve(one.curve, bars),
        "  ".join(latest),
    )
