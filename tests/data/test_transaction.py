"""A version's file, the decisions in it and its Git commit change together or not at all."""

from __future__ import annotations

import multiprocessing
import os
import pkgutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from minivess.data.pairing.cases import pair_files
from minivess.data.versions import versioning
from minivess.data.versions.curated import curated_hash, file_index, folder_hash
from minivess.data.versions.transaction import file_transaction, roll_back
from minivess.data.versions.versioning import Version, commit, restore
from minivess.errors import DataError
from minivess.home import Home, open_home
from tests.conftest import write_nifti

MakeDataset = Callable[..., Path]


def versioned(home: Home, root: Path, **how: Any) -> Version:
    return commit(home, root.name, pair_files(root).cases, **{"remote": None, **how})


def git(home: Home, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=home.dvc, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def change(root: Path) -> None:
    """One volume of the user's folder gets another label."""
    write_nifti(root / "labels" / "vol00.nii.gz", np.ones((24, 24, 5), np.uint8))


def test_each_version_is_a_commit_with_its_decisions(make_dataset: MakeDataset, home: Home) -> None:
    root = make_dataset(2)
    made = {"vol00": [{"verdict": "accept", "who": "Ada", "why": "a blank"}]}
    first = versioned(home, root, review=made, git=True)
    versioned(home, root, review=made, git=True)
    change(root)
    second = versioned(home, root, git=True)
    assert git(home, "log", "--format=%s").splitlines() == [
        f"tubes: {second.dataset_hash}",
        f"tubes: {first.dataset_hash}",
    ]
    assert git(home, "ls-files").splitlines() == [".gitignore", "tubes.dvc"]
    older = git(home, "show", "HEAD~1:tubes.dvc")
    assert yaml.safe_load(older)["meta"]["review"] == made

    # Any version of the history can be checked out again, and is what it was.
    folder = restore(
        home, dataset="tubes", dataset_hash=first.dataset_hash, dvc_text=older,
        remote=str(first.remote),
    )  # fmt: skip
    again = pair_files(folder).cases
    hashes = file_index(home).hashes([p for case in again for p in case.files])
    assert curated_hash(again, hashes) == first.dataset_hash


def test_where_git_refuses_nothing_changes(make_dataset: MakeDataset, home: Home) -> None:
    root = make_dataset(2)
    before = versioned(home, root, git=True).dvc_file.read_text()
    change(root)
    (home.dvc / ".git" / "index.lock").touch()
    with pytest.raises(DataError, match=r"index\.lock"):
        versioned(home, root, git=True)
    assert (home.dvc / "tubes.dvc").read_text() == before
    (home.dvc / ".git" / "index.lock").unlink()
    assert versioned(home, root, git=True).dvc_file.read_text() != before
    assert git(home, "status", "--porcelain") == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "committed"),
    [
        ("dvc.repo.Repo.push", False),
        ("minivess.data.versions.versioning._describe", False),
        ("minivess.data.versions.transaction._commit", False),
        ("minivess.data.versions.transaction._done", True),
    ],
)
def test_killed_before_any_step_file_decisions_and_commit_agree(
    make_dataset: MakeDataset, home: Home, step: str, committed: bool
) -> None:
    root = make_dataset(2)
    old = versioned(home, root, git=True, review={"vol00": ["old"]})
    change(root)
    killed = multiprocessing.get_context("fork").Process(target=die_at, args=(step, home, root))
    killed.start()
    killed.join(600)
    assert killed.exitcode == -signal.SIGKILL

    roll_back(old.dvc_file)
    assert old.dvc_file.read_text().strip() == git(home, "show", "HEAD:tubes.dvc")
    said = yaml.safe_load(old.dvc_file.read_text())
    assert said["meta"]["review"] == {"vol00": ["new" if committed else "old"]}
    assert (said["outs"][0]["md5"] == old.dataset_hash) is not committed

    again = versioned(home, root, git=True, review={"vol00": ["new"]})
    assert len(git(home, "log", "--format=%s").splitlines()) == 2
    assert git(home, "log", "-1", "--format=%s") == f"tubes: {again.dataset_hash}"


def die_at(step: str, home: Home, root: Path) -> None:
    """Make a version in this process, which is killed where `step` would begin."""
    owner, name = step.rsplit(".", 1)
    setattr(pkgutil.resolve_name(owner), name, lambda *_, **__: os.kill(os.getpid(), 9))
    versioned(home, root, git=True, review={"vol00": ["new"]})


def test_what_a_kill_left_is_put_back(tmp_path: Path) -> None:
    path = tmp_path / "tubes.dvc"
    path.write_text("old")
    change = file_transaction(path, message=None)
    change.__enter__()
    path.write_text("half")  # and the process is gone
    roll_back(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_edits_by_hand_are_named_and_kept(
    make_dataset: MakeDataset, home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    root = make_dataset(3)
    version = versioned(home, root)
    assert versioning.manual_edits(home, "tubes") == {}
    label, image = version.curated / "labels/vol01.nii.gz", version.curated / "images/vol02.nii.gz"
    os.chmod(label, 0o644)
    label.write_bytes(b"corrected by hand")  # in place, so DVC's cached copy changes with it
    image.unlink()
    assert versioning.manual_edits(home, "tubes") == {
        "modified": ["labels/vol01.nii.gz"],
        "deleted": ["images/vol02.nii.gz"],
    }
    restore(
        home, dataset="tubes", dataset_hash=version.dataset_hash,
        dvc_text=version.dvc_file.read_text(), remote=str(version.remote),
    )  # fmt: skip
    assert "labels/vol01.nii.gz" in caplog.text
    (kept,) = (home.root / "review" / "edits").rglob("*.gz")
    assert kept.read_bytes() == b"corrected by hand"
    assert versioning.manual_edits(home, "tubes") == {}


def test_an_edit_in_place_reaches_no_remote(
    make_dataset: MakeDataset, home: Home, tmp_path: Path
) -> None:
    root = make_dataset(2)
    version = versioned(home, root)
    assert versioning.is_at(home, "tubes", version.dataset_hash)
    label = version.curated / "labels/vol01.nii.gz"
    os.chmod(label, 0o644)
    label.write_bytes(b"corrected by hand")
    assert not versioning.is_at(home, "tubes", version.dataset_hash)
    again = versioned(home, root, remote=str(tmp_path / "elsewhere"))
    assert again.dataset_hash == version.dataset_hash
    folder = restore(
        open_home(tmp_path / "other"), dataset="tubes", dataset_hash=again.dataset_hash,
        dvc_text=again.dvc_file.read_text(), remote=str(again.remote),
    )  # fmt: skip
    assert folder_hash(folder) == version.dataset_hash


@pytest.mark.slow
def test_a_version_comes_back_from_s3_into_another_home(
    bucket: str, make_dataset: MakeDataset, home: Home, tmp_path: Path
) -> None:
    version = versioned(home, make_dataset(2), remote=bucket)
    folder = restore(
        open_home(tmp_path / "other"), dataset="tubes", dataset_hash=version.dataset_hash,
        dvc_text=version.dvc_file.read_text(), remote=bucket,
    )  # fmt: skip
    assert folder_hash(folder) == version.dataset_hash
    with pytest.raises(DataError, match="nowhere"):
        versioned(home, make_dataset(3), remote="s3://nowhere/at-all")
    assert version.dvc_file.exists()
