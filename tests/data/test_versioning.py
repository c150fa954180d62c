"""Versions are DVC's own, the originals stay as they are, and any version comes back."""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from minivess.config import DataConfig
from minivess.data.pairing.cases import pair_files
from minivess.data.profiling import profile as profiles
from minivess.data.versions.curated import curate, curated_folder, file_index, folder_hash
from minivess.data.versions.versioning import Version, commit, restore
from minivess.errors import DataError
from minivess.home import Home, open_home
from tests.conftest import write_nifti

MakeDataset = Callable[..., Path]


def state(root: Path) -> dict[str, tuple[object, ...]]:
    """Everything about the files that a user could notice."""
    return {
        path.relative_to(root).as_posix(): (
            path.stat().st_mode,
            path.stat().st_ino,
            path.stat().st_mtime_ns,
            path.stat().st_nlink,
            path.read_bytes() if path.is_file() else None,
        )
        for path in [root, *root.rglob("*")]
    }


def versioned(home: Home, root: Path, remote: str | None = None) -> Version:
    return commit(home, root.name, pair_files(root).cases, remote=remote)


def back(home: Home, version: Version, text: str) -> Path:
    return restore(
        home,
        dataset="tubes",
        dataset_hash=version.dataset_hash,
        dvc_text=text,
        remote=str(version.remote),
    )


def test_originals_keep_mode_inode_time_and_bytes(make_dataset: MakeDataset, home: Home) -> None:
    root = make_dataset(3)
    before = state(root)
    version = versioned(home, root)
    shutil.rmtree(version.curated)
    back(home, version, version.dvc_file.read_text())
    assert state(root) == before


def test_dvc_draws_nothing_on_the_users_terminal(make_dataset: MakeDataset, home: Home) -> None:
    ours, theirs = pty.openpty()
    code = (
        "import sys; from pathlib import Path; from minivess.home import open_home;"
        "from tests.data.test_versioning import versioned;"
        "versioned(open_home(Path(sys.argv[1])), Path(sys.argv[2]))"
    )
    words = [sys.executable, "-c", code, str(home.root), str(make_dataset(3))]
    clone = Path(__file__).resolve().parents[2]
    subprocess.run(words, check=True, cwd=clone, stdout=theirs, stderr=theirs)
    os.write(theirs, b"end")
    shown = b""
    while not shown.endswith(b"end"):
        shown += os.read(ours, 10_000)
    assert shown.removeprefix(b"\x1b[0m") == b"end"  # colorama resets colours at exit
    os.close(theirs)
    os.close(ours)


def test_our_hash_is_the_one_that_dvc_gives(make_dataset: MakeDataset, home: Home) -> None:
    root = make_dataset(2)
    write_nifti(root / "images" / "Z ä_1.nii.gz", pair_image(root))
    write_nifti(root / "labels" / "Z ä_1.nii.gz", pair_image(root))
    version = versioned(home, root)
    assert f"md5: {version.dataset_hash}\n" in version.dvc_file.read_text()
    assert version.dataset_hash.endswith(".dir")
    assert folder_hash(version.curated) == version.dataset_hash


def pair_image(root: Path):
    from minivess.formats.volume import read_volume

    return read_volume(root / "images" / "vol00.nii.gz").array


def test_the_hash_is_known_before_anything_is_copied(make_dataset: MakeDataset, home: Home) -> None:
    root = make_dataset(2)
    pairing = pair_files(root)
    paths = [path for case in pairing.cases for path in case.files]
    measured = profiles.profile(
        pairing,
        file_index(home).hashes(paths),
        config=DataConfig(),
        cache=home.profile_cache,
    )
    assert measured.dataset_hash == versioned(home, root).dataset_hash


def test_the_curated_folder_holds_the_cases_and_nothing_else(
    make_dataset: MakeDataset, home: Home
) -> None:
    root = make_dataset(3)
    first = curate(home, "tubes", pair_files(root).cases)
    kept = (first / "images" / "vol01.nii.gz").stat().st_ino
    (first / "images" / "stranger.nii.gz").write_text("x")
    curate(home, "tubes", pair_files(root).cases[1:])
    names = sorted(path.name for path in first.rglob("*.nii.gz"))
    assert names == ["vol01.nii.gz", "vol01.nii.gz", "vol02.nii.gz", "vol02.nii.gz"]
    assert (first / "images" / "vol01.nii.gz").stat().st_ino == kept


def test_a_changed_volume_gives_a_new_version_and_the_old_one_comes_back(
    make_dataset: MakeDataset, home: Home
) -> None:
    root = make_dataset(3)
    old = versioned(home, root)
    text = old.dvc_file.read_text()
    bytes_before = (root / "labels" / "vol00.nii.gz").read_bytes()
    write_nifti(root / "labels" / "vol00.nii.gz", 1 - pair_image(root) // 4000)
    new = versioned(home, root)
    assert new.dataset_hash != old.dataset_hash
    folder = back(home, old, text)
    assert folder_hash(folder) == old.dataset_hash
    assert (folder / "labels" / "vol00.nii.gz").read_bytes() == bytes_before


def test_a_version_comes_from_the_remote_into_another_home(
    make_dataset: MakeDataset, home: Home, tmp_path: Path
) -> None:
    version = versioned(home, make_dataset(2), remote=str(tmp_path / "a remote, #1"))
    text = version.dvc_file.read_text()
    shutil.rmtree(home.dvc)
    elsewhere = open_home(tmp_path / "elsewhere")
    assert folder_hash(back(elsewhere, version, text)) == version.dataset_hash


@pytest.mark.parametrize("in_place", [False, True])
def test_a_damaged_curated_file_is_noticed_and_mended(
    make_dataset: MakeDataset, home: Home, in_place: bool
) -> None:
    version = versioned(home, make_dataset(2))
    path = version.curated / "images" / "vol00.nii.gz"
    if in_place:  # through the link, DVC's cache is damaged too
        path.chmod(0o644)
    else:
        path.unlink()
    path.write_text("damaged")
    folder = back(home, version, version.dvc_file.read_text())
    assert folder_hash(folder) == version.dataset_hash


def test_a_version_that_nobody_holds_is_refused(
    make_dataset: MakeDataset, home: Home, tmp_path: Path
) -> None:
    version = versioned(home, make_dataset(2))
    text = version.dvc_file.read_text()
    elsewhere = open_home(tmp_path / "elsewhere")
    shutil.rmtree(str(version.remote))
    with pytest.raises(DataError, match="DVC could not"):
        back(elsewhere, version, text)
    assert not (elsewhere.dvc / "tubes.dvc").exists()


def test_a_remote_that_refuses_leaves_no_dvc_file(
    make_dataset: MakeDataset, home: Home, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"data\.remote"):
        versioned(home, make_dataset(2), remote=str(tmp_path / "file" / "below"))
    assert not (home.dvc / "tubes.dvc").exists()


def test_a_disk_that_is_too_small_is_noticed_before_copying(
    make_dataset: MakeDataset, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(home.root)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10))
    with pytest.raises(DataError, match="MINIVESS_HOME"):
        curate(home, "tubes", pair_files(make_dataset(2)).cases)
    assert not (home.dvc / "tubes").exists()


def test_names_that_dvc_needs_for_itself_are_set_aside(home: Home) -> None:
    assert curated_folder(home, "remote").name == "data-remote"
    assert curated_folder(home, ".dvc").name == "data-.dvc"


def test_adding_is_silent(
    make_dataset: MakeDataset, home: Home, capfd: pytest.CaptureFixture[str]
) -> None:
    versioned(home, make_dataset(2))
    assert capfd.readouterr() == ("", "")
