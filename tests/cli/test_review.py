"""`minivess review`: what people decide makes the next version."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from minivess.cli import main
from minivess.data.versions.curated import folder_hash
from minivess.formats import volume
from minivess.home import Home
from tests.conftest import write_nifti

pytestmark = pytest.mark.usefixtures("stocked")

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """A command without Prefect; returns its JSON, and the error's paragraph under `error`."""
    monkeypatch.setenv("PREFECT_DISABLED", "1")

    def run(*words: str, code: int = 0) -> dict[str, Any]:
        assert main.main([*words, "--json"]) == code
        told = capsys.readouterr()
        return json.loads(told.out.splitlines()[-1]) if code == 0 else {"error": told.err}

    return run


@pytest.mark.slow
def test_a_printed_decision_names_its_dataset(
    run: Run, make_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    root = make_dataset(4)
    shutil.copytree(root, tmp_path / "o'brien scans")
    for place in (root, tmp_path / "o'brien scans"):
        run("profile", f"data.root={place}")
    asked = run("review", "list", code=2)["error"]
    assert run(*shlex.split(asked.partition("Try: minivess ")[2]))["dataset"] == "o'brien scans"
    run("review", "export", str(tmp_path / "out"), "vol01", f"data.root={root}")
    run("review", "import", str(tmp_path / "out"), "--why", "seen")
    typed = run("review", "reject", "vol01", f"data.root={root}", code=1)["error"]
    run(*shlex.split(typed.partition("Try: minivess ")[2]))
    assert run("profile", f"data.root={root}")["quarantined"] == ["vol01"]


@pytest.mark.slow
def test_decisions_make_a_new_version_once(run: Run, make_dataset: Callable[..., Path]) -> None:
    root = make_dataset(4)
    write_nifti(root / "images" / "vol01.nii.gz", np.full((24, 26, 6), 7, np.uint16))
    first = run("profile", f"data.root={root}")
    assert first["quarantined"] == ["vol01"]
    queue = run("review", "list")
    assert [volume["case"] for volume in queue["volumes"]] == ["vol01"]

    run("review", "accept", "vol01", "--why", "a blank control", "--who", "Ada")
    run("review", "reject", "vol02", "vol03", "--why", "another microscope")
    second = run("profile", f"data.root={root}")
    assert second["quarantined"] == ["vol02", "vol03"]
    assert second["n_volumes"] == 2
    assert second["dataset_hash"] != first["dataset_hash"]

    assert run("review", "list")["open"] == 0
    assert (
        run("profile", f"data.root={root}")["data_profile_run_id"]
        == (second["data_profile_run_id"])
    )
    (decision,) = run("review", "list", "--all")["volumes"][1]["decisions"]
    assert (decision["who"], decision["why"]) == ("Ada", "a blank control")


def test_wrong_words_name_the_right_ones(run: Run, make_dataset: Callable[..., Path]) -> None:
    assert "minivess profile" in run("review", "list", code=2)["error"]
    run("profile", f"data.root={make_dataset(3)}")
    assert "list, accept" in run("review", "approve", code=2)["error"]
    assert "takes CASE" in run("review", "accept", code=2)["error"]
    assert "vol00" in run("review", "reject", "vol99", "--why", "x", code=1)["error"]
    assert "reason" in run("review", "reject", "vol00", code=1)["error"]
    assert "review fix" in run("review", "reject", "vol00", "--label", "x", code=2)["error"]


@pytest.mark.slow
def test_a_label_corrected_elsewhere_makes_a_new_version(
    run: Run, make_dataset: Callable[..., Path], home: Home, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    root = make_dataset(3)
    first = run("profile", f"data.root={root}")
    assert "--all" in run("review", "export", str(tmp_path / "out"), code=2)["error"]
    run("review", "export", str(tmp_path / "out"), "vol00")
    write_nifti(tmp_path / "out/labels/vol00.nii.gz", np.ones((24, 24, 5), np.uint8))
    assert main.main(["review", "import", str(tmp_path / "out")]) == 0
    assert f"then: minivess profile data.root={root}" in capsys.readouterr().out
    words = ("profile", f"data.root={root}", "data.git_commit=true")
    second = run(*words)
    assert second["dataset_hash"] != first["dataset_hash"]

    # As it was before: the old run serves again, and its version is in place again.
    run("review", "reopen", "vol00", "--why", "the old one was right")
    assert run(*words)["data_profile_run_id"] == first["data_profile_run_id"]
    dvc = home.dvc
    assert f"md5: {first['dataset_hash']}" in (dvc / "tubes.dvc").read_text()
    assert folder_hash(dvc / "tubes") == first["dataset_hash"]
    log = subprocess.run(["git", "log", "--format=%s"], cwd=dvc, capture_output=True, text=True)
    assert log.stdout.splitlines() == [
        f"tubes: {version['dataset_hash']}" for version in (first, second)
    ]


@pytest.mark.slow
def test_a_turned_label_is_versioned_as_it_is_used_and_put_in_place_again(
    run: Run, make_dataset: Callable[..., Path], home: Home
) -> None:
    root = make_dataset(4)
    label = root / "labels" / "vol02.nii.gz"
    straight = volume.read_volume(label)
    affine = np.diag([-1.0, 1, 1, 1])
    affine[0, 3] = straight.shape[0] - 1
    nib.save(nib.Nifti1Image(straight.array[::-1], affine), label)
    first = run("profile", f"data.root={root}")
    folder = home.dvc / "tubes"
    assert folder_hash(folder) == first["dataset_hash"]
    kept = volume.read_volume(folder / "labels" / "vol02.nii.gz")
    np.testing.assert_array_equal(kept.array, straight.array)
    shutil.rmtree(folder)
    again = run("profile", f"data.root={root}")
    assert again["data_profile_run_id"] == first["data_profile_run_id"]
    assert folder_hash(folder) == first["dataset_hash"]
