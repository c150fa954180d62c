"""Does the whole chain give the same figures through kills, freezes and stops? `5 --seed 0`.

For the given minutes chains run on the same small volumes, each in a fresh home. At random moments
a process of the chain, or all of them, is killed (SIGKILL), stopped and continued, interrupted
(SIGINT) or asked to end (SIGTERM); the same command is then given again, until the chain has
ended. Then it must hold what an undisturbed chain holds. A seed that finds something can be
replayed.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from minivess import files
from minivess.config import TrackingConfig
from minivess.home import open_home
from minivess.text import several
from minivess.tracking.store import registry
from minivess.tracking.store.store import open_store

FAULTS = ("kill one", "kill all", "freeze", "SIGINT", "SIGTERM")
FAULTS_PER_CHAIN = 4
PROGRAM = str(Path(sys.executable).with_name("minivess"))
SPREAD = 2 / FAULTS_PER_CHAIN
"""Longest time to a fault, in times of an undisturbed chain: the faults of a chain fill it."""
FREEZE_S, LIMIT_S = 3.0, 900
VARYING = ("run", "ended", "minutes")
"""Columns of metrics.csv that differ between two runs of the same cell."""
SETTINGS = ("configs/experiments/smoke.yaml", "data.demo_volumes=4")
Figures = dict[str, Any]


class Chain:
    """`minivess experiment` on the demo volumes, in a home of its own."""

    def __init__(self, root: Path, *, prefect: bool) -> None:
        self.root = root
        own = {"MINIVESS_HOME": str(root / "home"), "TMPDIR": str(root)}
        others = {name: value for name, value in os.environ.items() if "PREFECT" not in name}
        self.variables = {**others, **own, **({} if prefect else {"PREFECT_DISABLED": "1"})}
        root.mkdir(parents=True)

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """Begin a command in a process group of its own; what it says goes into a file."""
        with (self.root / "said.txt").open("ab") as said:
            return subprocess.Popen(
                [PROGRAM, *words],
                env=self.variables, stdout=said, stderr=said, start_new_session=True,
            )  # fmt: skip

    def run(self, *words: str) -> int:
        """Run a command to its end."""
        return self.start(*words).wait(LIMIT_S)

    def suffer(self, rng: random.Random, longest_s: float) -> str | None:
        """Start the chain and disturb it once; returns how, None if it had ended before."""
        command, fault = self.start("experiment", *SETTINGS), rng.choice(FAULTS)
        try:
            code = command.wait(rng.uniform(0.2, longest_s))
            return None if code == 0 else self._failed(code)
        except subprocess.TimeoutExpired:
            strike(psutil.Process(command.pid), fault, rng)
        command.wait(LIMIT_S)
        return fault

    def _failed(self, code: int) -> str:
        sys.exit(f"undisturbed, the chain ended with {code}:\n{self.said}")

    @property
    def said(self) -> str:
        """The end of what the commands printed."""
        return (self.root / "said.txt").read_text(errors="replace")[-3000:]

    def figures(self) -> Figures:
        """Everything that must be equal in the end."""
        home = open_home(self.root / "home")
        (table,) = home.tables.glob("*/metrics.csv")
        with table.open(encoding="utf-8", newline="") as stream:
            rows = {(row["family"], row["fold"]): row for row in csv.DictReader(stream)}
        store = open_store(home, TrackingConfig())
        runs = store.search()
        finished = Counter(run.tags["minivess.kind"] for run in runs if run.status == "FINISHED")
        pointers = files.read_json(home.pointers) if home.pointers.exists() else {}
        named = [run_id for held in pointers.values() for run_id in _run_ids(held)]
        return {
            "folds": [
                {key: value for key, value in row.items() if key not in VARYING}
                for _, row in sorted(rows.items())
            ],
            "aliases": {name: sorted(held) for name, held in registry.models(store).items()},
            "finished": dict(sorted(finished.items())),
            "running": [run.run_id for run in runs if run.status == "RUNNING"],
            "pointers name ended runs": {store.get(run_id).status for run_id in named}
            <= {"FINISHED"},
            "audit": self.run("audit"),
            "journals": [path.name for path in home.journal.glob("*.jsonl")],
        }


def _run_ids(held: dict[str, Any]) -> list[str]:
    return [held["run_id"]] if "run_id" in held else list(held.get("run_ids", ()))


def strike(leader: psutil.Process, fault: str, rng: random.Random) -> None:
    """Disturb a command and what it has started."""
    with suppress(psutil.NoSuchProcess):
        group = [leader, *leader.children(recursive=True)]
        match fault:
            case "kill one":
                rng.choice(group).kill()
            case "kill all":
                for process in group:
                    with suppress(psutil.NoSuchProcess):
                        process.kill()
            case "freeze":
                for process in group:
                    with suppress(psutil.NoSuchProcess):
                        process.suspend()
                time.sleep(FREEZE_S)
                for process in group:
                    with suppress(psutil.NoSuchProcess):
                        process.resume()
            case _:
                leader.send_signal(signal.Signals[fault])


def storm(folder: Path, seed: int, seconds: float) -> tuple[Counter[str], int, list[str]]:
    """Run chains until the time is over; returns faults made, chains, and differences."""
    rng, faults, differences, chains = random.Random(seed), Counter[str](), [], 0
    calm = Chain(folder / "calm", prefect=False)
    began = time.monotonic()
    if code := calm.run("experiment", *SETTINGS):
        sys.exit(f"undisturbed, the chain ended with {code}:\n{calm.said}")
    undisturbed_s = time.monotonic() - began
    wanted = calm.figures()
    while not chains or time.monotonic() - began < seconds:
        chain = Chain(folder / f"chain{chains}", prefect=rng.random() < 0.5)
        chains += 1
        for _ in range(FAULTS_PER_CHAIN):
            fault = chain.suffer(rng, undisturbed_s * SPREAD)
            if fault is None:
                break
            faults[fault] += 1
        # Servers and workers of a killed command end by themselves; the next one settles its runs.
        if code := chain.run("experiment", *SETTINGS):
            differences.append(f"chain {chains}: ended with {code}: {chain.said}")
            continue
        found = chain.figures()
        differences += [
            f"chain {chains}, {part}: {found[part]} instead of {wanted[part]}"
            for part in wanted
            if found[part] != wanted[part]
        ]
    return faults, chains, differences


def line(minutes: float, seed: int, faults: Counter[str], chains: int, differences: int) -> str:
    """The line that README shows under its proof."""
    made = ", ".join(f"{n} x {fault}" for fault, n in sorted(faults.items()))
    return (
        f"Chaos on {time.strftime('%Y-%m-%d')}, seed {seed}, {minutes:g} minutes: "
        f"{several(chains, 'chain')}, {several(faults.total(), 'fault')} ({made}), "
        f"{several(differences, 'difference')}."
    )


def main() -> int:
    """Print each difference, and at the end the line for README."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("minutes", type=float)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        faults, chains, differences = storm(Path(folder), given.seed, 60 * given.minutes)
    sys.stdout.write("".join(f"{one}\n" for one in differences))
    print(line(given.minutes, given.seed, faults, chains, len(differences)))
    return bool(differences)


if __name__ == "__main__":
    sys.exit(main())
