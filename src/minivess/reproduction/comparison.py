"""Compare two runs that should be equal: metrics, machine, packages."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from minivess.tracking.run import environment
from minivess.tracking.store import sql_reader
from minivess.tracking.store.store import Store

# Times and costs differ each time, even on the same machine.
COSTS = re.compile(r"^(system/|actual_|forecast_)|seconds|time|share|memory|duration")
MATTERS = ("python_version", "os", "cpu_model", "cuda_version", "cudnn_version", "gpu_model")
"""What decides a run beside its packages."""
Values = dict[tuple[str, int], float | None]


class Difference(NamedTuple):
    """One value that differs."""

    metric: str
    step: int
    before: float | None
    after: float | None

    @property
    def size(self) -> float:
        """Absolute difference; infinite if only one value is defined."""
        if self.before is None or self.after is None:
            return float("inf")
        return abs(self.before - self.after)


class Verdict(NamedTuple):
    """Result of comparing two runs."""

    compared: int
    differences: list[Difference]
    missing: list[str]

    @property
    def word(self) -> str:
        """`identical`, bit for bit, or `differs`."""
        same = self.compared and not self.differences and not self.missing
        return "identical" if same else "differs"


def compare(before: Values, after: Values) -> Verdict:
    """Compare every value of one run with the same metric and step of the other, exactly."""
    shared = sorted(before.keys() & after.keys())
    differences = [
        Difference(*key, before[key], after[key]) for key in shared if before[key] != after[key]
    ]
    missing = {name for name, _ in before.keys() ^ after.keys()}
    return Verdict(len(shared), differences, sorted(missing))


def values(store: Store, run_id: str) -> Values:
    """Return every metric of a run by name and step, without costs; undefined values are None."""
    rows = sql_reader.histories(store, [run_id]).to_pylist()
    return {(row["key"], row["step"]): row["value"] for row in rows if not COSTS.search(row["key"])}


def surroundings(params: Mapping[str, str], frozen: str) -> list[str]:
    """Return how this machine and its packages differ from a run's; `frozen`: its package list."""
    here = environment.collect()
    there, ours = software(params, frozen), software(here.params, here.files["frozen_deps.txt"])
    return [
        f"{name}: {there.get(name, 'absent')} there, {ours.get(name, 'absent')} here"
        for name in {**there, **ours}
        if there.get(name) != ours.get(name)
    ]


def software(params: Mapping[str, str], frozen: str) -> dict[str, str]:
    """Return machine and packages of a run with their versions; `frozen`: its package list."""
    lines = (line.strip().partition("==") for line in frozen.splitlines() if "==" in line)
    packages = {f"package {name.lower()}": version for name, _, version in sorted(lines)}
    known = {name: params[f"sys_{name}"] for name in MATTERS if f"sys_{name}" in params}
    return known | packages
