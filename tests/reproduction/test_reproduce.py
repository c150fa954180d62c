"""A training done again elsewhere: from MLflow and the DVC remote, and from a bundle alone."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from minivess import names
from minivess.cli import main
from minivess.config import TrackingConfig
from minivess.home import open_home
from minivess.reproduction import comparison
from minivess.reproduction.comparison import Difference
from minivess.tracking.run import environment
from minivess.tracking.store.store import Store, open_store
from tests.conftest import tube, write_nifti

pytestmark = pytest.mark.slow

CLONE = Path(__file__).resolve().parents[2]
WORDS = (
    "configs/experiments/smoke.yaml", "flows=[profile,train]", "training.losses=[mine]",
    "training.max_epochs=1", "name=tubes", "--json",
)  # fmt: skip
LOSS = "terms:\n  - {loss: dice_ce, weight: 0.75}\n"


@dataclass(frozen=True)
class Elsewhere:
    """What is left of a training when the machine that did it is gone."""

    shared: Path
    family: str
    uri: str

    @property
    def store(self) -> Store:
        home = open_home(self.shared / "reader")
        return open_store(home, TrackingConfig(uri=self.uri))


def git(folder: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *words], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, blank: Path) -> Elsewhere:
    """Trained in another clone with a loss that was never committed; clone, home, data are gone."""
    root = tmp_path_factory.mktemp("first machine")
    shared = tmp_path_factory.mktemp("shared")
    shutil.copy(blank, shared / "mlflow.db")
    git(root, "clone", "--quiet", str(CLONE), "clone")
    clone, data = root / "clone", root / "tubes"
    (clone / "configs" / "losses" / "mine.yaml").write_text(LOSS)
    with (clone / "src" / "minivess" / "losses.py").open("a") as source:
        source.write("\nOWN = 1\n")
    for index in range(4):
        image, mask = tube((24, 24 + 2 * index, 5 + index), seed=index)
        write_nifti(data / "images" / f"v{index}.nii.gz", image)
        write_nifti(data / "labels" / f"v{index}.nii.gz", mask)
    uri = f"sqlite:///{shared}/mlflow.db"
    words = [*WORDS, f"data.root={data}", f"data.remote={shared}/dvc",
             f"tracking.artifact_root={shared}/artifacts"]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "minivess.cli.main", "experiment", *words],
        cwd=clone, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": f"{clone / 'src'}:{clone}", "PREFECT_DISABLED": "1",
             "MINIVESS_HOME": str(root / "home"), "MLFLOW_TRACKING_URI": uri},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (family,) = json.loads(done.stdout.splitlines()[-1])["training_run_ids"]
    shutil.rmtree(root)
    return Elsewhere(shared, family, uri)


def minivess(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    """Type a verb; its exit code and what it printed."""
    code = main.main([*words, "--json"])
    said = capsys.readouterr()
    assert said.out, said.err
    return code, json.loads(said.out.splitlines()[-1])


@pytest.fixture(autouse=True)
def _second_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINIVESS_HOME", str(tmp_path / "second machine"))
    monkeypatch.setenv("PREFECT_DISABLED", "1")


def test_a_training_is_done_again_bit_for_bit_from_store_and_remote_alone(
    trained: Elsewhere, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", trained.uri)
    frozen = environment.frozen_dependencies() + "a-package-of-theirs==1.0\n"
    trained.store.client.log_text(trained.family, frozen, "environment/frozen_deps.txt")
    code, told = minivess(capsys, "reproduce", trained.family)
    assert (told["verdict"], code) == ("identical", 0), told
    assert told["compared"] > 40
    assert (told["differences"], told["missing"], told["ingredients"]) == ([], [], [])
    assert told["surroundings"] == ["package a-package-of-theirs: 1.0 there, absent here"]
    assert told["not_restored"] == []
    folder = Path(told["folder"])
    assert git(folder / "code", "rev-parse", "HEAD") == told["commit"]
    assert (folder / "code" / "configs" / "losses" / "mine.yaml").read_text() == LOSS
    assert "OWN = 1" in (folder / "code" / "src" / "minivess" / "losses.py").read_text()
    runs = trained.store.search()
    assert {run.experiment for run in runs} == {"data-profile", "tubes"}
    assert len(runs) == 4


def test_a_bundle_alone_does_a_fold_again_and_tells_which_values_differ(
    trained: Elsewhere,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", trained.uri)
    (cell,) = [r for r in trained.store.search(kind=names.CELL) if r.tags["fold_id"] == "1"]
    made = minivess(capsys, "reproduce", cell.run_id, "--export", str(tmp_path / "b.zip"))
    assert made == (0, {"bundle": str(tmp_path / "b.zip")})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    monkeypatch.setenv("MINIVESS_HOME", str(tmp_path / "third machine"))
    shutil.rmtree(tmp_path / "second machine")
    shutil.unpack_archive(tmp_path / "b.zip", tmp_path / "bundle")
    planted = tmp_path / "bundle" / "home" / "mlflow.db"
    with closing(sqlite3.connect(planted)) as database, database:
        database.execute("UPDATE metrics SET value = value + 0.5 WHERE key = 'val_loss'")
    assert main.main(["reproduce", str(tmp_path / "bundle"), "--trust"]) == 1
    assert "home/mlflow.db differs from its manifest" in capsys.readouterr().err
    (tmp_path / "bundle" / "manifest.json").unlink()  # as bundles of earlier releases
    # Nothing of the shared store may help.
    away = trained.shared.rename(trained.shared.with_name("away"))
    try:
        code, told = minivess(capsys, "reproduce", str(tmp_path / "bundle"), "--trust")
    finally:
        away.rename(trained.shared)
    assert (code, told["verdict"]) == (1, "differs")
    (difference,) = told["differences"]
    assert (difference["metric"], difference["step"]) == ("val_loss", 0)
    assert difference["before"] == pytest.approx(difference["after"] + 0.5)
    assert (told["missing"], told["ingredients"], told["not_restored"]) == ([], [], [])
    copied = open_store(open_home(Path(told["folder"]) / "home"), TrackingConfig())
    held = copied.artifacts(cell.run_id)
    assert f"checkpoints/{names.LAST}" in held
    assert copied.get(cell.run_id).artifact_uri.startswith("file://")
    assert "third%20machine" in copied.get(cell.run_id).artifact_uri
    assert copied.get(cell.run_id).params == cell.params


def test_what_is_no_training_is_not_done_again(
    trained: Elsewhere, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", trained.uri)
    (profile,) = trained.store.search(kind=names.PROFILE)
    assert main.main(["reproduce", profile.run_id]) == 1
    assert "only a FINISHED training" in capsys.readouterr().err


def test_a_commit_that_is_nowhere_is_said_and_the_present_code_runs_on_its_own(
    tmp_path: Path,
) -> None:
    from minivess.reproduction import code_state

    repository = code_state.clone()
    assert repository == CLONE
    assert not code_state.has(repository, "f" * 40)
    assert not code_state.has(repository, environment.UNKNOWN)
    diff = tmp_path / "git.diff"
    diff.write_text(f"{environment.LEFT_OUT} large.bin\n")
    assert code_state.apply(tmp_path, diff) == [
        "new file large.bin: too large to be kept with the run"
    ]
    diff.write_text(f"diff --git a/x b/x\n{environment.CUT}\n")
    assert code_state.apply(tmp_path, diff) == ["the uncommitted changes: too large to be kept"]


def test_a_verdict_holds_every_value_that_came_out_otherwise() -> None:
    before = {("val_dice", 0): 0.5, ("val_dice", 1): 0.6, ("val_masd", 1): None, ("gone", 0): 1.0}
    after = {("val_dice", 0): 0.5, ("val_dice", 1): 0.7, ("val_masd", 1): None}
    verdict = comparison.compare(before, after)
    assert (verdict.word, verdict.compared, verdict.missing) == ("differs", 3, ["gone"])
    assert verdict.differences == [Difference("val_dice", 1, 0.6, 0.7)]
    assert comparison.compare(after, after).word == "identical"
    assert comparison.compare({}, {}).word == "differs"


def test_another_machine_is_named_by_what_matters_there() -> None:
    here = environment.collect()
    params = {**here.params, "sys_cpu_model": "Another", "sys_hostname": "elsewhere"}
    told = comparison.surroundings(params, here.files["frozen_deps.txt"])
    assert told == [f"cpu_model: Another there, {here.params['sys_cpu_model']} here"]
