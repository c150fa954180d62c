"""Does a home that is old or busy get slow or large? `[--runs 1000 10000] [--more 40] [--days 7]`.

Fills an SQLite store with so many runs, then writes, finds and settles further ones as commands do:
the time of a run at the largest store may be twice that at the smallest, and memory stays flat. A
training's heartbeat beats as often as in the given days, without the waits in between.
`bench/large.py` does the same with grids of many cells and folders of large volumes.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))  # `just bench` runs scripts with -P

from bench.faults import QUIET
from bench.scale import fill
from minivess import names
from minivess.config import TrackingConfig
from minivess.home import open_home
from minivess.tracking.journal import uploader
from minivess.tracking.run.dead_runs import settle_runs
from minivess.tracking.run.run_lifecycle import mlflow_run
from minivess.tracking.store.store import Store, open_store
from minivess.training.monitoring import watchdog

SIZES = {"params": 20, "metrics": 10, "steps": 5}
SLOWER, GROWN_MB = 2.0, 64.0
DAY_S = 86_400
WARM = 10


def resident_mb() -> float:
    """Memory of this process, without what waits to be collected."""
    gc.collect()
    return float(psutil.Process().memory_info().rss) / 2**20


def one_run(store: Store, index: int) -> None:
    """A run as a command makes it: looked for, written, uploaded, and dead ones settled."""
    key = f"{index:032x}"
    assert store.find(key, experiment="age") is None
    settle_runs(store)
    with mlflow_run(
        store, experiment="age", name=f"run{index}", kind=names.FAMILY, key=key, note="n",
        dataset="d", config=QUIET, ingredients={},
    ) as run:  # fmt: skip
        for step in range(SIZES["steps"]):
            run.metrics({f"metric_{k}": float(step) for k in range(SIZES["metrics"])}, step=step)
        run.text(f"{index}", "notes/index.txt")
    uploader.of(store).flush_all()
    found = store.find(key, experiment="age")
    assert found is not None


def seconds_per_run(store: Store, first: int, more: int) -> tuple[float, float]:
    """Processor seconds of one further run, and megabytes that the process grew over them."""
    for index in range(WARM):
        one_run(store, first + index)
    before, begun = resident_mb(), time.process_time()
    for index in range(WARM, WARM + more):
        one_run(store, first + index)
    return (time.process_time() - begun) / more, resident_mb() - before


def beat(days: float, folder: Path) -> tuple[int, float]:
    """Beats of so many days, and megabytes that the process grew over them."""
    wanted, beats, done = int(days * DAY_S / watchdog.BEAT_S), 0, threading.Event()

    def count(event: watchdog.ProgressEvent) -> None:
        nonlocal beats
        beats += 1
        if beats >= wanted:
            done.set()

    before, usual = resident_mb(), (watchdog.BEAT_S, watchdog.HEARTBEAT_S)
    watchdog.BEAT_S, watchdog.HEARTBEAT_S = (1e-5 * length for length in usual)
    heart = watchdog.Heartbeat(on_progress=count, on_stall=lambda _: None, folder=folder)
    try:
        with heart:
            heart.begin(watchdog.ProgressEvent(0, 1, 0, wanted, 1.0))
            while not done.wait(1e-3):
                heart.step(beats)
    finally:
        watchdog.BEAT_S, watchdog.HEARTBEAT_S = usual
    return beats, resident_mb() - before


def main() -> int:
    """Fill, measure, print; 1 if a limit is exceeded."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--runs", type=int, nargs="+", default=[1000, 10_000])
    asked.add_argument("--more", type=int, default=40)
    asked.add_argument("--days", type=float, default=7.0)
    given = asked.parse_args()
    times, grown, first = [], [], 0
    with tempfile.TemporaryDirectory(prefix="minivess-age-") as folder:
        home = open_home(Path(folder) / "home")
        store = open_store(home, TrackingConfig())
        for runs in sorted(given.runs):
            fill(store, {**SIZES, "runs": runs - first}, first=first)
            first = runs
            took, more = seconds_per_run(store, 10**6 + runs, given.more)
            times.append(took)
            grown.append(more)
            size = home.database.stat().st_size / 2**20
            print(f"{runs:>6} runs, {size:5.0f} MB: {took:.3f} s a run, {more:+.1f} MB", flush=True)
        beats, more = beat(given.days, Path(folder))
        print(f"{beats} beats: {more:+.1f} MB")
    ratio = times[-1] / times[0]
    print(f"time of a run: {ratio:.2f} x (limit {SLOWER:g} x); memory: limit {GROWN_MB:g} MB")
    return int(ratio > SLOWER or max(*grown, more) > GROWN_MB)


if __name__ == "__main__":
    sys.exit(main())
