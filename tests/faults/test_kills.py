"""A chain that is stopped says so in MLflow, and the same command goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import Run

from minivess import names

pytestmark = pytest.mark.slow

EPOCHS = 12


def start(root: Path, home: Path, *, prefect: bool) -> subprocess.Popen[str]:
    """Train a small grid in a process of its own."""
    environment = {key: value for key, value in os.environ.items() if "PREFECT" not in key}
    environment |= {"MINIVESS_HOME": str(home)} | ({} if prefect else {"PREFECT_DISABLED": "1"})
    return subprocess.Popen(
        [
            sys.executable, "-m", "flows.cli", "experiment", "configs/experiments/smoke.yaml",
            f"data.root={root}", "flows=[profile,train]", f"training.max_epochs={EPOCHS}",
        ],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def wait_for_epoch(process: subprocess.Popen[str], epoch: int) -> str:
    """Read what is printed until an epoch is done."""
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if f"epoch {epoch}/" in line:
            return seen
    raise AssertionError(seen)


def runs(home: Path) -> list[Run]:
    """Every training run, parents and children, oldest first."""
    client = MlflowClient(f"sqlite:///{home}/mlflow.db")
    experiment = client.get_experiment_by_name("tubes")
    assert experiment is not None
    return list(
        client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"])
    )


@pytest.mark.parametrize("prefect", [False, True])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_chain_ends_its_runs_as_killed(
    number: signal.Signals,
    code: int,
    prefect: bool,
    make_dataset: Callable[..., Path],
    tmp_path: Path,
) -> None:
    process = start(make_dataset(4), tmp_path / "home", prefect=prefect)
    wait_for_epoch(process, 2)
    process.send_signal(number)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == code, printed
    assert [run.info.status for run in runs(tmp_path / "home")] == ["KILLED", "KILLED"]
    assert not (tmp_path / "home" / "prefect" / "server.json").exists()


def test_after_kill_9_the_same_command_settles_the_dead_runs_and_finishes(
    make_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    root, home = make_dataset(4), tmp_path / "home"
    process = start(root, home, prefect=False)
    wait_for_epoch(process, 3)
    process.kill()
    process.wait()
    again = start(root, home, prefect=False)
    printed, _ = again.communicate(timeout=300)
    assert again.returncode == 0, printed
    dead = [run for run in runs(home) if run.info.status == "KILLED"]
    assert len(dead) == 2
    assert {run.data.tags["error_type"] for run in dead} == {"ProcessDied"}
    finished = [run for run in runs(home) if run.info.status == "FINISHED"]
    assert len(finished) == 3
    assert f"epoch {EPOCHS}/{EPOCHS}" in printed


def test_a_failing_fold_fails_its_parent_too(
    make_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    process = start(make_dataset(4), tmp_path / "home", prefect=False)
    wait_for_epoch(process, 1)
    cells = tmp_path / "home" / "cells"
    deadline = time.monotonic() + 60
    while not list(cells.glob("*/last.pth")) and time.monotonic() < deadline:
        time.sleep(0.05)
    (folder,) = [path.parent for path in cells.glob("*/last.pth")]
    folder.rename(folder.with_name("elsewhere"))
    folder.write_text("a file where the trainer wants its folder")
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 1, printed
    found = runs(tmp_path / "home")
    assert {run.info.status for run in found} == {"FAILED"}
    parent = next(run for run in found if run.data.tags[names.KIND] == names.FAMILY)
    assert parent.data.tags["error_type"]


DEATHS = {
    "between cells": ("flows.attempts.train_cell", 2),
    "in the report": ("minivess.analysis.report.render", 1),
}


def judged(home: Path) -> dict[str, float]:
    """What the analysis of a home says, by metric, with a digest of the champion's weights."""
    client = MlflowClient(f"sqlite:///{home}/mlflow.db")
    experiment = client.get_experiment_by_name(names.EVALUATION_EXPERIMENT)
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], "attributes.status = 'FINISHED'")
    return dict(run.data.metrics)


def weights(home: Path) -> dict[str, dict[str, torch.Tensor]]:
    """The best weights of each cell of a home, by cell key."""
    return {
        path.parent.name: torch.load(path, weights_only=True)["weights"]
        for path in (home / "cells").glob(f"*/{names.BEST_PRIMARY}")
    }


def test_killed_between_cells_and_in_the_report_a_chain_comes_to_the_same_bits(
    make_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    words = [
        "experiment", "configs/experiments/smoke.yaml", f"data.root={make_dataset(4)}",
        "flows=[profile,train,analyse]",
    ]  # fmt: skip

    def run(home: str, *before: str) -> int:
        environment = {**os.environ, "PREFECT_DISABLED": "1", "MINIVESS_HOME": str(tmp_path / home)}
        started = [sys.executable, "-m", *(before or ["flows.cli"]), *words]
        return subprocess.run(started, env=environment, check=False, timeout=300).returncode

    for point, (place, call) in DEATHS.items():
        assert run("killed", "tests.faults.deaths", place, str(call)) == -signal.SIGKILL, point
    assert run("killed") == run("whole") == 0
    assert judged(tmp_path / "killed") == judged(tmp_path / "whole")
    killed, whole = weights(tmp_path / "killed"), weights(tmp_path / "whole")
    assert len(whole) == 2
    assert killed.keys() == whole.keys()
    for key, state in whole.items():
        assert all(torch.equal(value, killed[key][name]) for name, value in state.items())
