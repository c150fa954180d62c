"""A chain that is stopped says so in MLflow, and the same command goes on."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import Run

from minivess import files, names
from minivess.cli import main as cli
from minivess.config import TrackingConfig
from minivess.home import Home, open_home
from minivess.orchestration import prefect_server
from minivess.tracking.store.store import open_store
from tests.commands import Command, Main
from tests.faults import deaths, laws

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("stocked")]

ENDLESS = 1000
"""Epochs of a training that is sure to be stopped before its last."""


def start(
    root: Path, home: Home, *words: str, prefect: bool = False, main: Main = cli.main
) -> Command:
    """Train a small grid in a process of its own, one cell after another."""
    environment = {key: value for key, value in os.environ.items() if "PREFECT" not in key}
    environment["MINIVESS_HOME"] = str(home.root)
    if not prefect:
        environment["PREFECT_DISABLED"] = "1"
    fixed = ("configs/experiments/smoke.yaml", "training.parallel_cells=1", "name=tubes")
    words = (*fixed, f"data.root={root}", *words)
    return Command(("experiment", *words), environment, home.root / "command", main=main)


def endless(root: Path, home: Home, *, prefect: bool = False) -> Command:
    """A training that only a fault can end."""
    words = ("flows=[profile,train]", f"training.max_epochs={ENDLESS}")
    return start(root, home, *words, prefect=prefect)


def runs(home: Home) -> list[Run]:
    """Every training run, parents and children, oldest first."""
    client = MlflowClient(f"sqlite:///{home.database}")
    experiment = client.get_experiment_by_name("tubes")
    assert experiment is not None
    return list(
        client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"])
    )


def no_server_stays(home: Home) -> bool:
    """Whether a private server that is not to stay ends by itself."""
    deadline = time.monotonic() + 120
    while prefect_server.running(home.prefect) and time.monotonic() < deadline:
        time.sleep(0.1)
    return prefect_server.running(home.prefect) is None


@pytest.mark.parametrize("prefect", [False, True])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_chain_ends_its_runs_as_killed(
    number: signal.Signals,
    code: int,
    prefect: bool,
    make_dataset: Callable[..., Path],
    home: Home,
    warm_prefect: Callable[[Home], None],
) -> None:
    if prefect:
        warm_prefect(home)
    command = endless(make_dataset(4), home, prefect=prefect)
    command.wait_for("epoch 2/")
    assert (home.prefect / "server.json").exists() == prefect
    command.send_signal(number)
    assert command.wait() == code, command.err
    assert [run.info.status for run in runs(home)] == ["KILLED", "KILLED"]
    assert no_server_stays(home)


def test_a_chain_whose_terminal_is_gone_ends_its_runs_and_its_server(
    make_dataset: Callable[..., Path], home: Home, warm_prefect: Callable[[Home], None]
) -> None:
    warm_prefect(home)
    words = ("flows=[profile,train]", f"training.max_epochs={ENDLESS}")
    command = start(make_dataset(4), home, *words, prefect=True, main=deaths.lose_terminal)
    assert command.wait() == 128 + signal.SIGHUP, command.err
    assert [run.info.status for run in runs(home)] == ["KILLED", "KILLED"]
    assert {run.data.tags["error_message"] for run in runs(home)} == {"ended by SIGHUP"}
    assert no_server_stays(home)


def test_after_kill_9_the_same_command_settles_the_dead_runs_and_finishes(
    make_dataset: Callable[..., Path], home: Home
) -> None:
    root, words = make_dataset(4), ("flows=[profile,train]", "training.max_epochs=3")
    # At the end of the second of three epochs.
    dying = partial(deaths.main, "minivess.training.cell_folder.write_history", 2)
    killed = start(root, home, *words, main=dying)
    assert killed.wait() == -signal.SIGKILL, killed.err
    assert len(list(home.cells.glob("*/last.pth"))) == 1
    again = start(root, home, *words)
    assert again.wait() == 0, again.err
    dead = [run for run in runs(home) if run.info.status == "KILLED"]
    assert len(dead) == 2
    assert {run.data.tags["error_type"] for run in dead} == {"ProcessDied"}
    finished = [run for run in runs(home) if run.info.status == "FINISHED"]
    assert len(finished) == 3
    assert "fold 0 resumes after epoch 2" in again.out
    assert "epoch 3/3" in again.out


def test_a_failing_fold_fails_its_parent_too(make_dataset: Callable[..., Path], home: Home) -> None:
    command = endless(make_dataset(4), home)
    command.wait_for("epoch 1/")
    while not (stored := list(home.cells.glob("*/last.pth"))):
        time.sleep(0.01)
    folder = stored[0].parent
    folder.rename(folder.with_name("elsewhere"))
    folder.write_text("a file where the trainer wants its folder")
    assert command.wait() == 1, command.err
    found = runs(home)
    assert {run.info.status for run in found} == {"FAILED"}
    parent = next(run for run in found if run.data.tags[names.KIND] == names.FAMILY)
    assert parent.data.tags["error_type"]


DEATHS = {
    "between cells": ("minivess.grid.cell_training.train_cell", 2),
    "in the report": ("minivess.analysis.report.report.render", 1),
}


def judged(home: Home) -> dict[str, float]:
    """What the analysis of a home says, by metric, with a digest of the champion's weights."""
    client = MlflowClient(f"sqlite:///{home.database}")
    experiment = client.get_experiment_by_name(names.EVALUATION_EXPERIMENT)
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], "attributes.status = 'FINISHED'")
    return dict(run.data.metrics)


def weights(home: Home) -> dict[str, dict[str, torch.Tensor]]:
    """The best weights of each cell of a home, by cell key."""
    return {
        path.parent.name: torch.load(path, weights_only=True)["weights"]
        for path in home.cells.glob(f"*/{names.BEST_PRIMARY}")
    }


def test_killed_between_cells_and_in_the_report_a_chain_comes_to_the_same_bits(
    make_dataset: Callable[..., Path], home: Home, tmp_path: Path, stock: Callable[[Home], None]
) -> None:
    root, whole = make_dataset(4), open_home(tmp_path / "whole")
    stock(whole)

    def run(place: Home, main: Main = cli.main) -> int:
        return start(root, place, "flows=[profile,train,analyse]", main=main).wait()

    for point, (function, call) in DEATHS.items():
        assert run(home, partial(deaths.main, function, call)) == -signal.SIGKILL, point
    assert run(home) == run(whole) == 0
    assert judged(home) == judged(whole)
    killed, expected = weights(home), weights(whole)
    assert len(expected) == 2
    finished = {run.run_id for run in open_store(home, TrackingConfig()).search(status="FINISHED")}
    assert laws.misdirected(files.read_json(home.pointers), finished) == []
    assert killed.keys() == expected.keys()
    for key, state in expected.items():
        assert all(torch.equal(value, killed[key][name]) for name, value in state.items())
