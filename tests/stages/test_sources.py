"""The data engineer's flow on data in S3."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest
from mlflow import MlflowClient

from minivess.cli import main
from tests.conftest import tube
from tests.data.conftest import bucket as bucket
from tests.formats.test_formats import mha, nrrd_of, ome

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("stocked")]

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """A command without Prefect; returns its JSON, and what it said under `said`."""
    monkeypatch.setenv("PREFECT_DISABLED", "1")

    def run(*words: str) -> dict[str, Any]:
        assert main.main([*words, "--json"]) == 0
        told = capsys.readouterr()
        return {**json.loads(told.out.splitlines()[-1]), "said": told.err}

    return run


def upload(root: Path) -> None:
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        boto3.client("s3").upload_file(str(path), "volumes", f"minivess/{path.relative_to(root)}")


def test_data_in_s3_are_profiled_and_fetched_once(
    bucket: str, make_dataset: Callable[..., Path], run: Run
) -> None:
    root = make_dataset(3, name="minivess")
    upload(root)
    first, again = run("profile", f"data.root={bucket}"), run("profile", f"data.root={bucket}")
    assert f"fetched  6 files of {bucket}" in first["said"]
    assert "fetched" not in again["said"]
    assert again["data_profile_run_id"] == first["data_profile_run_id"]
    pushed = run("profile", f"data.root={root}", "data.remote=s3://volumes/dvc")
    assert pushed["dataset_hash"] == first["dataset_hash"]
    kept = boto3.client("s3").list_objects_v2(Bucket="volumes", Prefix="dvc/files/md5/")["Contents"]
    assert len(kept) == 6 + 1  # and the listing of the folder


def test_tiff_nrrd_and_mha_in_s3_go_through_training_and_analysis(
    bucket: str, tmp_path: Path, run: Run
) -> None:
    root = tmp_path / "minivess"
    for index, (write, ending) in enumerate([(ome, ".ome.tif"), (nrrd_of, ".nrrd"), (mha, ".mha")]):
        image, mask = tube((24, 26, 6), seed=index)
        for part, array in (("images", image), ("labels", mask)):
            (root / part).mkdir(parents=True, exist_ok=True)
            write(root / part / f"v{index}{ending}", array)
    upload(root)
    words = ("configs/experiments/smoke.yaml", f"data.root={bucket}", "data.analyzer=monai")
    done = run("experiment", *words, "training.max_epochs=1", "flows=[profile,train,analyse]")
    assert done["analysis_run_id"]
    client = MlflowClient(f"sqlite:///{tmp_path / 'home'}/mlflow.db")
    kept = {item.path for item in client.list_artifacts(done["data_profile_run_id"], "dataset")}
    assert kept >= {"dataset/datastats.yaml", "dataset/datastats_by_case.yaml"}
    profile = client.get_run(done["data_profile_run_id"])
    assert profile.data.params["data_dataset_path"] == bucket
