"""One process at a time trains a cell, also when one dies, is stopped or loses the store."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from minivess import config, names
from minivess.config import TrackingConfig, child_environment
from minivess.contracts import CellOrder
from minivess.errors import StoreUnreachable
from minivess.grid import cell_run, families, family_run
from minivess.grid.context import prepare
from minivess.grid.lease import LeaseLost, Leases
from minivess.home import Home
from minivess.orchestration.session import open_session
from minivess.stages.profile import profile_data
from minivess.tracking.store.store import Store, open_store

PROGRAM = """
import random, sys, time
from pathlib import Path
from minivess.config import TrackingConfig
from minivess.grid.lease import Leases
from minivess.home import open_home
from minivess.tracking.store.store import open_store

home, run_id, log, turns, seconds = sys.argv[1:]
leases = Leases(open_store(open_home(Path(home)), TrackingConfig()), run_id, 3.0, 0.3)
for turn in range(int(turns)):
    with leases.taken("cell", lambda holder: None) as confirm:
        begin = time.time()
        Path(log).open("a").write("taken\\n")
        time.sleep(float(seconds))
        confirm()
        Path(log).open("a").write(f"{begin} {time.time()}\\n")
"""


@pytest.fixture
def store(blank: Path, home: Home) -> Store:
    """A store with nothing in it."""
    shutil.copy(blank, home.database)
    return open_store(home, TrackingConfig())


@pytest.fixture
def run_id(store: Store) -> str:
    """The run whose cells are taken."""
    return str(store.client.create_run("0").info.run_id)


class Worker:
    """Another process that takes the cell again and again."""

    def __init__(self, store: Store, run_id: str, log: Path, turns: int, seconds: float) -> None:
        words = (str(store.home.root), run_id, str(log), str(turns), str(seconds))
        self.log = log
        with log.with_suffix(".err").open("w") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, *words], env=child_environment(), stderr=said
            )

    def wait_until_it_has_the_cell(self) -> None:
        """Wait for its first turn."""
        while not (self.log.exists() and "taken" in self.log.read_text()):
            assert self.process.poll() is None
            time.sleep(0.05)


@pytest.fixture
def workers() -> Iterator[list[Worker]]:
    """Workers that are ended with the test."""
    made: list[Worker] = []
    yield made
    for worker in made:
        worker.process.kill()
        worker.process.wait()


def unexpected(holder: object) -> None:
    raise AssertionError(holder)


@pytest.mark.slow
def test_attempts_that_overlap_train_one_after_another_though_some_are_killed(
    store: Store, run_id: str, tmp_path: Path, workers: list[Worker]
) -> None:
    workers += [Worker(store, run_id, tmp_path / f"{i}", 3, 0.1) for i in range(2)]
    victim = Worker(store, run_id, tmp_path / "victim", 100, 0.1)
    workers.append(victim)
    victim.wait_until_it_has_the_cell()
    victim.process.kill()
    assert [worker.process.wait(120) for worker in workers[:2]] == [0] * 2
    lines = [line for worker in workers for line in worker.log.read_text().splitlines()]
    turns = sorted(tuple(map(float, line.split())) for line in lines if line != "taken")
    assert len(turns) >= 6
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(turns))


@pytest.mark.slow
def test_a_holder_whose_clock_stood_still_loses_the_cell_and_hands_over_no_result(
    store: Store, run_id: str, tmp_path: Path, workers: list[Worker]
) -> None:
    sleeper = Worker(store, run_id, tmp_path / "sleeper", 1, 60)
    workers.append(sleeper)
    sleeper.wait_until_it_has_the_cell()
    os.kill(sleeper.process.pid, signal.SIGSTOP)
    leases, waited = Leases(store, run_id, 1.5, 0.3), list[dict[str, str]]()
    with leases.taken("cell", waited.append) as confirm:
        assert waited[0]["minivess.pid"] == str(sleeper.process.pid)
        os.kill(sleeper.process.pid, signal.SIGCONT)
        assert sleeper.process.wait(60) == 128 + signal.SIGTERM
        confirm()
    assert sleeper.log.read_text() == "taken\n"


def test_a_holder_that_loses_the_store_goes_on_and_finds_out_later(
    store: Store, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, other = Leases(store, run_id, 0.5, 0.1), Leases(store, run_id, 0.5, 0.1)
    away = StoreUnreachable("The store is away.", remedy="wait")
    with pytest.raises(LeaseLost), mine.taken("cell", unexpected) as confirm:  # noqa: PT012
        with monkeypatch.context() as patched:
            patched.setattr(Store, "get", lambda *words: (_ for _ in ()).throw(away))
            time.sleep(0.5)
        confirm()
        # As a machine that is cut off looks from elsewhere.
        store.client.log_param(run_id, "lease.cell.2", '{"minivess.host": "elsewhere"}')
        time.sleep(30)
    assert not other.is_abandoned("cell", since=2)


def test_a_holder_that_is_cut_off_hands_over_nothing_and_the_other_s_result_stands(
    store: Store, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_off = open_store(store.home, TrackingConfig())
    mine, other = Leases(cut_off, run_id, 0.5, 0.1), Leases(store, run_id, 0.5, 0.1)

    def away(*words: object) -> None:
        raise StoreUnreachable("The store is away.", remedy="wait")

    results, waited = list[str](), list[dict[str, str]]()
    with pytest.raises(LeaseLost), mine.taken("cell", unexpected) as confirm:  # noqa: PT012
        with monkeypatch.context() as partition:
            partition.setattr(cut_off, "get", away)
            partition.setattr(cut_off, "set_tags", away)
            with other.taken("cell", waited.append) as theirs:
                theirs()
                results.append("other")
            time.sleep(0.3)
            results.append("cut off, computes on")
        confirm()
        results.append("mine")
    assert results == ["other", "cut off, computes on"]
    assert len(waited) == 1
    found = other.look("cell")
    assert (found.epoch, found.has_ended) == (2, True)


@pytest.mark.slow
def test_a_cell_that_ended_is_not_waited_for_and_one_that_died_is_abandoned(
    store: Store, run_id: str, tmp_path: Path, workers: list[Worker]
) -> None:
    leases = Leases(store, run_id)
    with leases.taken("cell", unexpected):
        pass
    worker = Worker(store, run_id, tmp_path / "log", 1, 60)
    workers.append(worker)
    worker.wait_until_it_has_the_cell()
    assert not leases.is_abandoned("cell", since=1)
    worker.process.kill()
    worker.process.wait()
    assert leases.is_abandoned("cell", since=1)
    assert not leases.is_abandoned("cell", since=2)
    with leases.taken("cell", unexpected):
        assert leases.look("cell").epoch == 3


SETTINGS = (
    "name=pool", "training.deployment=train-cell/local", "training.losses=[dice_ce]",
    "training.folds=2", "training.max_epochs=6", "training.samples_per_volume=1",
    "training.batch_size=2", "training.mixed_precision=none", "model.filters=[4,8,16]",
    "evaluation.bootstrap_n=100", "tracking.log_system_metrics=false",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.usefixtures("stocked")
def test_another_worker_resumes_from_the_checkpoint_in_the_store_where_no_disk_is_shared(
    make_dataset: Callable[..., Path], home: Home, tmp_path: Path
) -> None:
    uri, env = (
        f"sqlite:///{home.database}",
        config.Environment(home=home.root, prefect_disabled=True),
    )
    words = (
        f"data.root={make_dataset(4)}",
        f"tracking.uri={uri}",
        f"tracking.artifact_root={home.artifacts}",
    )
    with open_session(config.load([], [*SETTINGS, *words], env), env, yes=True) as session:
        profile = profile_data(session)
        (family,) = families.families(session.config, profile)
        grid = prepare(session, profile, [family])
        with family_run.opened(grid, family) as parent:
            session.need_store()
            order = CellOrder(
                settings=session.config.model_dump(mode="json", exclude_unset=True),
                data_profile_run_id=str(profile.run_id),
                parent_run_id=session.store.resolve(parent.run_id),
                family=family.name,
                fold=0,
                profile=profile,
                plan=grid.model(family).plan,
            )
            file = tmp_path / "order.json"
            file.write_text(order.model_dump_json())
            key, store = family.cells[0].key, session.store

            def sent() -> bool:
                last = store.last(key, experiment="pool")
                return last is not None and f"checkpoints/{names.LAST}" in store.artifacts(
                    last.run_id
                )

            first = carry_out(file, tmp_path / "one")
            while not sent():
                assert first.poll() is None
                time.sleep(0.1)
            first.kill()
            first.wait()
            second = carry_out(file, tmp_path / "two")
            assert second.wait(300) == 0, (tmp_path / "two.log").read_text()
            runs = session.store.search(parent=parent.run_id)
            result = cell_run.read_result(session, runs[0].run_id)
    said = (tmp_path / "two.log").read_text()
    assert f"takes over what run {runs[1].run_id} left" in said
    assert "resumes after epoch" in said
    assert [run.status for run in runs] == ["FINISHED", "KILLED"]
    assert result.epochs == 6


def carry_out(order: Path, home: Path) -> subprocess.Popen[bytes]:
    """Train a cell as a worker with a home of its own does."""
    words = (sys.executable, "-m", "minivess.grid.worker", str(order), str(os.getpid()))
    with home.with_suffix(".log").open("wb") as log:
        return subprocess.Popen(
            words, env=child_environment(MINIVESS_HOME=str(home)), stdout=log, stderr=log
        )
