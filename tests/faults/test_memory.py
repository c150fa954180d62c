"""Memory that is really not there: a process's own limit, and the kernel that kills."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from minivess import names
from minivess.home import Home
from tests.commands import Command
from tests.faults import limits

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("stocked")]

EPOCHS = 12
WORDS = [
    "configs/experiments/smoke.yaml", "name=tubes", "training.patch_size=[24,24,4]",
    "training.parallel_cells=1", "training.max_epochs=1",
]  # fmt: skip
TOO_LARGE = """
import dataclasses, json, os, resource, sys
from pathlib import Path
from minivess.cli import main as cli
from minivess.grid import context as contexts
from minivess.grid import families as grids
from minivess.orchestration import handoff
from minivess.stages import train
from minivess.orchestration.session import open_session
from minivess import config as configs
from minivess.errors import OutOfMemory
import torch
import minivess.training.trainer, minivess.tracking.run.model

torch.set_num_threads(1)

def limit(headroom):
    lines = Path("/proc/self/status").read_text().splitlines()
    now = next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmData"))
    resource.setrlimit(resource.RLIMIT_DATA, (now + (headroom << 20), resource.RLIM_INFINITY))

def stand(session):
    profile = handoff.receive_profile(session, ())
    families = grids.families(session.config, profile)
    return contexts.prepare(session, profile, families), families[0]

words = sys.argv[1:]
assert cli.main(["profile", words[0], words[-1]]) == 0
told, env = {}, configs.environment()
for name, more in (("auto", []), ("given", ["training.batch_size=256"])):
    config = configs.load([Path(words[0])], words[1:] + more)
    with open_session(config, env) as session:
        grid, family = stand(session)
        model = grid.models["dynunet"]
        if name == "auto":
            grid.probe([family])
        larger = model.plan.replace(batch_size=256, iterations_per_epoch=1)
        grid.models["dynunet"] = model._replace(plan=larger)
        limit(120)
        if name == "auto":
            tried = dataclasses.replace(grid, models=dict(grid.models))
            tried.probe([family])
            told["probed"] = tried.models["dynunet"].plan.batch_size
        try:
            told[name] = train.train_family(grid, family).run_id
        except OutOfMemory as error:
            told[name] = [error.problem, error.remedy]
print(json.dumps(told))
"""


def environment(home: Home) -> dict[str, str]:
    """A user's, with this home, without Prefect, on one thread."""
    clean = {key: value for key, value in os.environ.items() if "PREFECT" not in key}
    return {
        **clean, "MINIVESS_HOME": str(home.root), "PREFECT_DISABLED": "1", "OMP_NUM_THREADS": "1",
        # What is freed goes back to the kernel, whose limit counts what is mapped.
        "MALLOC_MMAP_THRESHOLD_": "131072",
    }  # fmt: skip


def children(home: Home) -> list[Run]:
    """Every child run of fold 0, oldest first."""
    client = MlflowClient(f"sqlite:///{home.database}")
    experiment = client.get_experiment_by_name("tubes")
    assert experiment is not None
    return list(
        client.search_runs(
            [experiment.experiment_id],
            f"tags.`{names.KIND}` = '{names.CELL}' and tags.fold_id = '0'",
            order_by=["attributes.start_time ASC"],
        )
    )


def artifact(home: Home, run: Run, path: str) -> str:
    client = MlflowClient(f"sqlite:///{home.database}")
    return Path(client.download_artifacts(run.info.run_id, path)).read_text()


def test_a_cell_out_of_memory_restarts_with_the_next_plan_and_both_are_recorded(
    make_dataset: Callable[..., Path], home: Home
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TOO_LARGE, *WORDS, f"data.root={make_dataset(4)}"],
        env=environment(home), capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["probed"] < 256

    *cell, smaller_windows, refused = children(home)
    *failed, finished = cell
    assert {run.info.status for run in failed} == {"FAILED"}
    assert {run.data.tags[names.ERROR_TYPE] for run in failed} == {"OutOfMemory"}
    assert finished.info.status == "FINISHED"
    assert len({run.data.tags[names.KEY] for run in cell}) == 1
    assert len({run.data.tags[names.PARENT] for run in cell}) == 1
    assert [run.data.params["batch_size"] for run in cell] == [
        str(256 >> step) for step in range(len(cell))
    ]
    assert [run.data.params["plan_number"] for run in cell] == [
        str(1 + step) for step in range(len(cell))
    ]
    for before, after in pairwise(cell):
        assert after.data.tags[names.RESTART_OF] == before.info.run_id
        assert before.data.tags[names.NEXT_PLAN].startswith(
            f"plan {after.data.params['plan_number']}"
        )
        following = json.loads(artifact(home, before, names.NEXT_PLAN_ARTIFACT))
        assert str(following["batch_size"]) == after.data.params["batch_size"]
        assert "[memory]" in artifact(home, before, "logs/warnings.log")
        assert "OutOfMemory" in artifact(home, before, "traceback.txt")

    problem, remedy = told["given"]
    assert "batch_size=256" in problem
    assert "MB" in problem
    assert "'training.patch_size=[" in remedy
    # Windows of prediction, which nobody gave, are the only thing to make smaller.
    for run in (smaller_windows, refused):
        assert (run.info.status, run.data.tags[names.ERROR_TYPE]) == ("FAILED", "OutOfMemory")
        assert run.data.params["batch_size"] == "256"
    assert names.NEXT_PLAN in smaller_windows.data.tags
    assert names.NEXT_PLAN not in refused.data.tags


def test_a_cell_that_the_kernel_killed_for_memory_starts_again_with_the_next_plan(
    make_dataset: Callable[..., Path], home: Home
) -> None:
    words = [
        "experiment", *WORDS[:-1], "flows=[profile,train]", "training.folds=2",
        f"data.root={make_dataset(4)}", f"training.max_epochs={EPOCHS}", "compute.profile=gpu_low",
    ]  # fmt: skip
    with limits.memory_group() as group:
        starved = Command(
            words, environment(home), home.root / "first", main=partial(limits.inside, group)
        )
        starved.wait_for("epoch 2/")
        limits.starve(group, starved)
        assert starved.wait() == -signal.SIGKILL
        again = Command(words, environment(home), home.root / "again")
        assert again.wait() == 0, again.err
    killed, finished = children(home)
    assert killed.info.status == "KILLED"
    assert killed.data.tags[names.ERROR_TYPE] == names.OUT_OF_MEMORY_KILL
    assert finished.info.status == "FINISHED"
    assert finished.data.tags[names.KEY] == killed.data.tags[names.KEY]
    assert finished.data.tags[names.RESTART_OF] == killed.info.run_id
    assert finished.data.params["plan_number"] == "2"
    assert int(finished.data.params["batch_size"]) == int(killed.data.params["batch_size"]) // 2
    assert "was killed for its memory" in again.out
    assert f"epoch 1/{EPOCHS}" in again.out
