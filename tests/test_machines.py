"""Two machines share only MLflow and the DVC remote: one trains, the other judges and serves."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from minivess import names
from minivess.cli import main
from minivess.config import TrackingConfig
from minivess.home import open_home
from minivess.tracking.store.store import open_store

pytestmark = pytest.mark.slow


@pytest.fixture
def machine(
    tmp_path: Path,
    blank: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., dict[str, object]]:
    """Run a verb as if on a machine of its own: another home, the shared store and remote."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shutil.copy(blank, shared / "mlflow.db")
    (shared / "lab.yaml").write_text(
        f"tracking: {{artifact_root: {shared}/artifacts}}\n"
        f"data: {{remote: {shared}/dvc}}\ntraining: {{max_epochs: 1}}\n"
    )
    monkeypatch.setenv("PREFECT_DISABLED", "1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{shared}/mlflow.db")

    def run(home: str, *words: str) -> dict[str, object]:
        monkeypatch.setenv("MINIVESS_HOME", str(tmp_path / home))
        files = ("configs/experiments/smoke.yaml", str(shared / "lab.yaml"))
        assert main.main([*words, *files, "--json"]) == 0, capsys.readouterr().err
        found: dict[str, object] = json.loads(capsys.readouterr().out.splitlines()[-1])
        return found

    return run


def test_a_second_machine_builds_on_the_runs_of_the_first(
    machine: Callable[..., dict[str, object]], make_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    root = make_dataset(4)
    data = f"data.root={root}"
    profiled = machine("first", "profile", data)
    trained = machine("first", "train", data)
    # The first machine and the originals are gone: what follows comes from store and remote.
    shutil.rmtree(tmp_path / "first")
    shutil.rmtree(root)
    ids = ",".join(trained["training_run_ids"])  # type: ignore[arg-type]
    analysed = machine("second", "analyse", data, "--upstream", ids)
    deployed = machine("second", "deploy", data)
    store = open_store(
        open_home(tmp_path / "second"),
        TrackingConfig(uri=f"sqlite:///{tmp_path}/shared/mlflow.db"),
    )
    deployment = store.get(str(deployed["deployment_run_id"]))
    assert deployment.params[names.UPSTREAM_ANALYSIS] == analysed["analysis_run_id"]
    assert deployment.params[names.UPSTREAM_PROFILE] == profiled["data_profile_run_id"]
    assert deployment.params[names.DATASET_HASH] == profiled["dataset_hash"]
