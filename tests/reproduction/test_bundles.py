"""What a bundle from elsewhere may not do: write, link or point outside its own folder."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from minivess.cli import main
from minivess.home import Home

Evil = Callable[[Path], Path]


def climbing_zip(folder: Path) -> Path:
    path = folder / "run.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("recipe.json", "{}")
        archive.writestr("../../../escaped.txt", "out")
    return path


def climbing_tar(folder: Path) -> Path:
    path = folder / "run.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo("../../../escaped.txt")
        member.size = 3
        archive.addfile(member, io.BytesIO(b"out"))
    return path


def linking_tar(folder: Path) -> Path:
    path = folder / "run.tar"
    with tarfile.open(path, "w") as archive:
        link = tarfile.TarInfo("home")
        link.type, link.linkname = tarfile.SYMTYPE, str(folder)
        archive.addfile(link)
        member = tarfile.TarInfo("home/escaped.txt")
        member.size = 3
        archive.addfile(member, io.BytesIO(b"out"))
    return path


def linking_folder(folder: Path) -> Path:
    (folder / "run").mkdir()
    (folder / "run" / "recipe.json").write_text("{}")
    (folder / "run" / "home").symlink_to(folder)
    return folder / "run"


@pytest.fixture
def outside(home: Home) -> Path:
    """The folder around the home."""
    (home.root / "kept.txt").write_text("kept")
    return home.root.parent


@pytest.mark.parametrize("make", [climbing_zip, climbing_tar, linking_tar, linking_folder])
def test_a_bundle_that_leads_out_of_its_folder_is_refused(
    make: Evil, outside: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_DISABLED", "1")
    assert main.main(["reproduce", str(make(outside)), "--trust"]) == 1
    assert "leads out of its own folder" in capsys.readouterr().err
    assert not [path for path in outside.rglob("escaped.txt") if path.is_file()]
    assert (outside / "home" / "kept.txt").read_text() == "kept"


@pytest.mark.parametrize("word", ["..", "../home", "run.zip"])
def test_the_code_of_a_bundle_runs_only_where_somebody_says_that_it_is_trusted(
    word: str, outside: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_DISABLED", "1")
    monkeypatch.chdir(outside / "home")
    climbing_zip(outside / "home")
    assert main.main(["reproduce", word]) == 2
    assert f"minivess reproduce {word} --trust" in capsys.readouterr().err
    assert main.main(["reproduce", word, "--trust"]) == 1
    assert (outside / "home" / "kept.txt").read_text() == "kept"


def test_an_id_that_no_run_has_removes_nothing(
    outside: Path, stocked: None, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("PREFECT_DISABLED", "1")
    assert main.main(["reproduce", "../kept.txt"]) == 1
    assert "../kept.txt" in capsys.readouterr().err
    assert (outside / "home" / "kept.txt").read_text() == "kept"
