"""Data in storage elsewhere: paired by name, fetched once, only ever read."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest

from minivess.data.pairing.cases import pair_files
from minivess.data.versions.remote import Mirror
from minivess.errors import DataError

MakeDataset = Callable[..., Path]


@pytest.fixture
def volumes(bucket: str, make_dataset: MakeDataset) -> str:
    """A dataset of three volumes in a bucket, among other files."""
    put(bucket, make_dataset(3))
    put(bucket, make_dataset(1, name="notes"), under="notes/")
    return bucket


def put(url: str, root: Path, under: str = "") -> None:
    name, _, prefix = url.removeprefix("s3://").partition("/")
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        key = f"{prefix}/{under}{path.relative_to(root).as_posix()}"
        boto3.client("s3").upload_file(str(path), name, key)


def standing(url: str) -> dict[str, Any]:
    name = url.removeprefix("s3://").partition("/")[0]
    found = boto3.client("s3").list_objects_v2(Bucket=name)["Contents"]
    return {entry["Key"]: (entry["ETag"], entry["LastModified"]) for entry in found}


def fetched(mirror: Mirror) -> int:
    """How many files had to be fetched to have the pairs whole."""
    cases = pair_files(mirror.listed()).cases
    return mirror.fetch(path for case in cases for path in case.files)


@pytest.mark.slow
def test_names_are_paired_before_anything_is_fetched(volumes: str, tmp_path: Path) -> None:
    root = Mirror(volumes, tmp_path).listed()
    pairing = pair_files(root)
    assert [case.case for case in pairing.cases] == ["vol00", "vol01", "vol02"]
    assert sum(path.stat().st_size for path in root.rglob("*.nii.gz")) == 0


def test_an_object_is_fetched_once_and_again_when_it_changed(
    volumes: str, tmp_path: Path, make_dataset: MakeDataset
) -> None:
    before = standing(volumes)
    assert fetched(Mirror(volumes, tmp_path)) == 6
    assert fetched(Mirror(volumes, tmp_path)) == 0
    assert standing(volumes) == before
    changed = make_dataset(1, name="changed", size=26) / "images" / "vol00.nii.gz"
    boto3.client("s3").upload_file(str(changed), "volumes", "minivess/images/vol00.nii.gz")
    mirror = Mirror(volumes, tmp_path)
    assert fetched(mirror) == 1
    assert (mirror.root / "images" / "vol00.nii.gz").read_bytes() == changed.read_bytes()


def test_what_is_torn_or_lost_here_is_fetched_again(volumes: str, tmp_path: Path) -> None:
    mirror = Mirror(volumes, tmp_path)
    fetched(mirror)
    (mirror.root / "images" / "vol01.nii.gz").write_bytes(b"torn")
    (mirror.root / "labels" / "vol02.nii.gz").unlink()
    assert fetched(Mirror(volumes, tmp_path)) == 2
    (mirror.root.parent / "index.json").write_text("[")
    assert fetched(Mirror(volumes, tmp_path)) == 6


@pytest.mark.slow
def test_an_object_that_is_gone_is_gone_here_and_groups_count(volumes: str, tmp_path: Path) -> None:
    mirror = Mirror(volumes, tmp_path)
    fetched(mirror)
    boto3.client("s3").delete_object(Bucket="volumes", Key="minivess/labels/vol00.nii.gz")
    text = '{"vol01": "a", "vol02": "b"}'
    boto3.client("s3").put_object(Bucket="volumes", Key="minivess/groups.json", Body=text)
    cases = pair_files(Mirror(volumes, tmp_path).listed()).cases
    assert [(case.case, case.group) for case in cases] == [("vol01", "a"), ("vol02", "b")]


def test_a_key_cannot_lead_out_of_the_folder(volumes: str, tmp_path: Path) -> None:
    for key in ("minivess/../../out.nii.gz", "minivess/images/", "minivess/images"):
        boto3.client("s3").put_object(Bucket="volumes", Key=key, Body=b"x")
    mirror = Mirror(volumes, tmp_path / "sources")
    assert fetched(mirror) == 6
    assert not list(tmp_path.rglob("out.nii.gz"))


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("s3://nowhere/at-all", "no s3://nowhere/at-all"),
        ("s3://volumes/other", "s3://volumes/other holds no files"),
        ("nothing://volumes", "nothing"),
        ("s3:///", "s3"),
    ],
)
def test_a_wrong_address_is_named(volumes: str, tmp_path: Path, url: str, what: str) -> None:
    with pytest.raises(DataError, match=what) as caught:
        Mirror(url, tmp_path).listed()
    assert caught.value.remedy


def test_no_right_and_no_network_are_said_with_a_remedy(
    volumes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(DataError, match="redentials") as caught:
        Mirror(volumes, tmp_path).listed()
    assert "AWS_PROFILE" in caught.value.remedy
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "tests")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "tests")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(DataError, match="connect"):
        Mirror(volumes, tmp_path).listed()


WITHOUT = """
import subprocess
import sys
from pathlib import Path
sys.modules["s3fs"] = None
from minivess.data.versions.remote import Mirror
Mirror("s3://volumes/minivess", Path(sys.argv[1])).listed()
"""


def test_without_the_package_the_extra_is_named(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, tmp_path], capture_output=True, text=True, check=False
    )
    assert "Install s3fs" in done.stderr
    assert "Try: just setup s3 (in an environment of your own: pip install dvc-s3)" in done.stderr
