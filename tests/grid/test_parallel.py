"""Cells in processes of their own end as they do one after another."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from minivess import config, names
from minivess.contracts import RunRecord
from minivess.errors import OrchestrationError, TrainingError
from minivess.grid import families
from minivess.home import Home
from minivess.orchestration.handoff import receive_profile
from minivess.orchestration.session import Session, open_session
from minivess.stages.profile import profile_data
from minivess.stages.train import train

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("stocked")]

SETTINGS = (
    "training.losses=[dice_ce]", "training.max_epochs=2", "training.samples_per_volume=1",
    "training.batch_size=2", "training.threads=1", "training.mixed_precision=none",
    "model.filters=[4,8,16]", "evaluation.bootstrap_n=100", "tracking.log_system_metrics=false",
)  # fmt: skip


@contextmanager
def opened(root: Path, home: Home, *words: str) -> Iterator[Session]:
    """A session without Prefect; one thread a cell, so that results can be compared bit by bit."""
    env = config.Environment(home=home.root, prefect_disabled=True)
    later = {word.partition("=")[0]: word for word in (*SETTINGS, *words)}
    asked = config.load([], [f"data.root={root}", *later.values()], env)
    with open_session(asked, env, yes=True) as session:
        yield session


def cells_of(session: Session, parent: str) -> list[RunRecord]:
    return sorted(session.store.search(parent=parent), key=lambda run: run.name)


def last_weights(session: Session, run: RunRecord, into: Path) -> dict[str, torch.Tensor]:
    path = session.store.download(run.run_id, f"checkpoints/{names.LAST}", into / run.run_id)
    return torch.load(path, weights_only=True)["weights"]


def test_cells_in_processes_give_the_same_weights_and_a_failure_stays_with_its_family(
    make_dataset: Callable[..., Path], home: Home, tmp_path: Path
) -> None:
    root = make_dataset(4)
    two = "training.folds=2"
    with opened(root, home, "name=one_by_one", two) as session:
        profile_data(session)
        (family,) = train(session).families
        plain = [last_weights(session, c, tmp_path) for c in cells_of(session, family.run_id)]
    shutil.rmtree(home.cells)

    words = ("name=side_by_side", "training.losses=[dice_ce,focal]", "training.parallel_cells=2")
    with opened(root, home, two, *words) as session:
        wanted = families.families(session.config, receive_profile(session))
        # A file where the trainer wants its folder.
        home.cells.mkdir()
        (home.cells / wanted[1].cells[1].key).write_text("")
        with pytest.raises(TrainingError, match=r"1 of 4 cells failed: dynunet_focal fold 1"):
            train(session)
        good, bad = (session.store.last(one.key, experiment="side_by_side") for one in wanted)
        assert (good.status, bad.status) == ("FINISHED", "FAILED")
        assert "fold 1" in bad.tags["error_message"]
        statuses = {run.name: run.status for run in cells_of(session, bad.run_id)}
        assert statuses.get("dynunet_focal_fold0") == "FINISHED"
        assert statuses.get("dynunet_focal_fold1", "FAILED") == "FAILED"
        for run, weights in zip(cells_of(session, good.run_id), plain, strict=True):
            theirs = last_weights(session, run, tmp_path)
            assert all(torch.equal(theirs[name], weight) for name, weight in weights.items())
            assert run.tags["minivess.pid"] != good.tags["minivess.pid"]

    split = tmp_path / "split.json"
    fold = wanted[0].split.folds[0]
    split.write_text(json.dumps([{"train": fold.train, "val": fold.val}]))
    shared = ("name=shared", "training.processes_per_cell=2", f"training.splits={split}")
    shutil.rmtree(home.cells)
    with opened(root, home, *shared) as session:
        (family,) = train(session).families
        (run,) = cells_of(session, family.run_id)
        theirs = last_weights(session, run, tmp_path)
        for name, weight in plain[0].items():
            torch.testing.assert_close(theirs[name], weight, rtol=1e-2, atol=1e-3)


def test_a_cell_ends_with_the_coordinator_that_was_killed() -> None:
    starter = subprocess.Popen(["sleep", "600"])
    code = (
        "import sys, time; from minivess.grid.worker import end_with; "
        "from minivess.runtime.processes import process_of; "
        "end_with(process_of(int(sys.argv[1]))); print('ready', flush=True); time.sleep(600)"
    )
    words = [sys.executable, "-c", code, str(starter.pid)]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as cell:
        assert cell.stdout is not None
        cell.stdout.readline()
        starter.kill()
        starter.wait()
        assert cell.wait(300) == -signal.SIGTERM


def test_a_work_pool_needs_prefect(make_dataset: Callable[..., Path], home: Home) -> None:
    with (
        opened(make_dataset(4), home, "training.deployment=train-cell/local") as session,
        pytest.raises(OrchestrationError, match="PREFECT_DISABLED"),
    ):
        session.orchestrator.submit("train-cell/local", {})
