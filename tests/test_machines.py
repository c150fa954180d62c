"""Machines share only MLflow's server and the DVC remote: what one trains serves the others."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.faults import Server
from minivess import names
from minivess.cli import main
from minivess.config import TrackingConfig
from minivess.home import open_home
from minivess.tracking.store.store import Store, open_store

pytestmark = pytest.mark.slow


@pytest.fixture
def server(tmp_path: Path, blank: Path) -> Iterator[Server]:
    """MLflow's server of a team, with its artifacts."""
    (tmp_path / "shared").mkdir()
    started = Server(tmp_path / "shared")
    shutil.copy(blank, started.database)
    started.start()
    yield started
    started.kill()


@pytest.fixture
def store(server: Server, tmp_path: Path) -> Store:
    """What all see."""
    return open_store(open_home(tmp_path / "onlooker"), TrackingConfig(uri=server.uri))


@pytest.fixture
def machine(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., dict[str, object]]:
    """Run a verb as if on a machine of its own: another home, the shared store and remote."""
    (server.folder / "lab.yaml").write_text(
        f"tracking: {{uri: '{server.uri}'}}\n"
        f"data: {{remote: {server.folder}/dvc}}\ntraining: {{max_epochs: 1}}\n"
    )
    monkeypatch.setenv("PREFECT_DISABLED", "1")

    def run(home: str, *words: str) -> dict[str, object]:
        monkeypatch.setenv("MINIVESS_HOME", str(server.folder.with_name(home)))
        files = ("configs/experiments/smoke.yaml", str(server.folder / "lab.yaml"))
        assert main.main([*words, *files, "--json"]) == 0, capsys.readouterr().err
        found: dict[str, object] = json.loads(capsys.readouterr().out.splitlines()[-1])
        return found

    return run


def test_others_reuse_what_one_has_trained_and_build_on_it(
    machine: Callable[..., dict[str, object]],
    make_dataset: Callable[..., Path],
    store: Store,
    tmp_path: Path,
) -> None:
    root = make_dataset(4)
    data = f"data.root={root}"
    profiled = machine("first", "profile", data)
    trained = machine("first", "train", data)
    before = {run.run_id for run in store.search()}
    assert machine("colleague", "train", data)["training_run_ids"] == trained["training_run_ids"]
    assert {run.run_id for run in store.search()} == before
    # The first machine and the originals are gone: what follows comes from store and remote.
    shutil.rmtree(tmp_path / "first")
    shutil.rmtree(root)
    ids = ",".join(trained["training_run_ids"])  # type: ignore[arg-type]
    analysed = machine("second", "analyse", data, "--upstream", ids)
    deployed = machine("second", "deploy", data)
    deployment = store.get(str(deployed["deployment_run_id"]))
    assert deployment.params[names.UPSTREAM_ANALYSIS] == analysed["analysis_run_id"]
    assert deployment.params[names.UPSTREAM_PROFILE] == profiled["data_profile_run_id"]
    assert deployment.params[names.DATASET_HASH] == profiled["dataset_hash"]
