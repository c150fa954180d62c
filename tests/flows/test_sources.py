"""The data engineer's flow on data in S3."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest

from flows import cli
from tests.data.conftest import bucket as bucket

Run = Callable[..., dict[str, Any]]


def test_data_in_s3_are_profiled_and_fetched_once(
    bucket: str,
    make_dataset: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PREFECT_DISABLED", "1")
    root = make_dataset(3, name="minivess")
    for path in sorted(root.rglob("*.nii.gz")):
        key = path.relative_to(root.parent).as_posix()
        boto3.client("s3").upload_file(str(path), "volumes", key)

    def profile(where: str) -> tuple[dict[str, Any], str]:
        assert cli.main(["profile", f"data.root={where}", "--json"]) == 0
        told = capsys.readouterr()
        return json.loads(told.out.splitlines()[-1]), told.err

    first, said = profile(bucket)
    assert f"fetched  6 files of {bucket}" in said
    again, said = profile(bucket)
    assert "fetched" not in said
    assert again["data_profile_run_id"] == first["data_profile_run_id"]
    local, _ = profile(str(root))
    assert local["dataset_hash"] == first["dataset_hash"]
