"""A dataset is where its originals lie and what they hold; its name is only a label."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from minivess import config as configs
from minivess import names
from minivess.cli import main
from minivess.config import TrackingConfig
from minivess.home import Home, open_home
from minivess.orchestration.session import open_session
from minivess.stages.dataset_scan import scan_dataset
from minivess.stages.profile import profile_data
from minivess.tracking.store.store import Store, open_store
from tests.conftest import tube, write_nifti

pytestmark = pytest.mark.slow

Typed = Callable[..., dict[str, Any]]


@dataclass(frozen=True)
class Scene:
    """A home in which the first of two folders called vessels was profiled."""

    home: Home
    first: Path
    second: Path
    profile: str

    @property
    def store(self) -> Store:
        return open_store(self.home, TrackingConfig())


def vessels(root: Path, seed: int) -> Path:
    """A folder of four tiny volumes."""
    for index in range(4):
        image, mask = tube((24, 24 + 2 * index, 5 + index), seed=seed + index)
        write_nifti(root / "images" / f"vol{index:02d}.nii.gz", image)
        write_nifti(root / "labels" / f"vol{index:02d}.nii.gz", mask)
    return root


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, stock: Callable[[Home], None]) -> Scene:
    """One profile for all tests, which each leave it as it is."""
    folder = tmp_path_factory.mktemp("identity")
    home = open_home(folder / "home")
    stock(home)
    first, second = vessels(folder / "a" / "vessels", 0), vessels(folder / "b" / "vessels", 9)
    env = configs.Environment(home=home.root, prefect_disabled=True)
    with open_session(configs.load(overrides=[f"data.root={first}"], env=env), env) as session:
        return Scene(home, first, second, str(profile_data(session).run_id))


@pytest.fixture
def minivess(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Typed:
    """Type a verb; what `--json` prints, and what was said."""
    monkeypatch.setenv("PREFECT_DISABLED", "1")
    monkeypatch.setenv("MINIVESS_HOME", str(scene.home.root))

    def run(*words: str, expected: int = 0) -> dict[str, Any]:
        code = main.main([*words, "--json"])
        told = capsys.readouterr()
        assert code == expected, told.err
        return {**(json.loads(told.out.splitlines()[-1]) if told.out else {}), "said": told.err}

    return run


@pytest.mark.parametrize(
    "words",
    [
        ["profile"], ["plan"], ["train"], ["experiment"], ["analyse"], ["deploy"],
        ["review", "list"], ["predict", "IMAGE", "OUT"], ["train", "--upstream", "PROFILE"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_another_folder_of_a_known_name_is_refused_at_every_door(
    scene: Scene, minivess: Typed, tmp_path: Path, words: list[str]
) -> None:
    image = str(scene.second / "images" / "vol00.nii.gz")
    places = {"PROFILE": scene.profile, "IMAGE": image, "OUT": str(tmp_path)}
    typed = [places.get(word, word) for word in words]
    refused = minivess(*typed, f"data.root={scene.second}", expected=2)["said"]
    assert f"'vessels' lies at {scene.first}" in refused
    assert "data.name=vessels-2 if it is another dataset" in refused


@pytest.mark.parametrize(
    ("folder", "why"),
    [("Vessels", "share names with the dataset 'vessels'"), ("demo", "the name of the demo data")],
)
def test_names_that_would_share_a_variable_or_the_demos_are_refused(
    scene: Scene, minivess: Typed, tmp_path: Path, folder: str, why: str
) -> None:
    other = vessels(tmp_path / folder, 20)
    refused = minivess("profile", f"data.root={other}", expected=2)["said"]
    assert why in refused
    assert f"data.name={folder}-2" in refused


def test_a_renamed_folder_is_told_of_the_dataset_that_has_its_files(
    scene: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(scene.first, tmp_path / "renamed")
    env = configs.Environment(home=scene.home.root, prefect_disabled=True)
    asked = configs.load(overrides=[f"data.root={tmp_path / 'renamed'}"], env=env)
    with open_session(asked, env) as session:
        scan_dataset(session)
    assert "files of vessels, which is another dataset here; data.name=vessels" in "".join(
        capsys.readouterr()
    )


@pytest.mark.parametrize(
    ("word", "why"),
    [("name=taken", "holds tubes"), ("name=minivess_evaluation", "is kept for runs of other")],
)
def test_an_experiment_takes_one_dataset(
    scene: Scene, minivess: Typed, word: str, why: str
) -> None:
    scene.store.experiment_id("taken", dataset="tubes", note="n")
    refused = minivess("train", f"data.root={scene.first}", word, expected=2)["said"]
    assert why in refused
    assert "name=vessels" in refused


def test_settings_that_a_given_profile_was_not_made_with_are_refused(
    scene: Scene, minivess: Typed
) -> None:
    words = ("train", f"data.root={scene.first}", "--upstream", scene.profile)
    refused = minivess(*words, "data.label_map={1: 1}", expected=2)["said"]
    assert "data.label_map" in refused
    assert "leave out --upstream" in refused


def test_a_moved_folder_goes_on_and_both_remedies_of_a_refused_one_work(
    scene: Scene, minivess: Typed, tmp_path: Path
) -> None:
    moved = shutil.copytree(scene.first, tmp_path / "vessels")
    again = minivess("profile", f"data.root={moved}")
    assert "vessels has moved here" in again["said"]
    assert again["reused"] == [scene.profile]
    third = vessels(tmp_path / "c" / "vessels", 30)
    other = minivess("profile", f"data.root={third}", "data.name=vessels-2")
    assert other["reused"] == []
    assert (scene.home.dvc / "vessels-2").is_dir()
    known = minivess("profile", f"data.root={third}")
    assert f"{third} is the dataset 'vessels-2' of this home" in known["said"]
    assert known["reused"] == [other["data_profile_run_id"]]
    fourth = minivess("profile", f"data.root={vessels(tmp_path / 'd' / 'vessels', 40)}", expected=2)
    assert "data.name=vessels-3 if it is another dataset" in fourth["said"]
    same = minivess("profile", f"data.root={third}", "data.name=vessels")
    assert f"note: vessels lay at {scene.first}" in same["said"]
    assert minivess("profile", f"data.root={third}")["reused"] == [same["data_profile_run_id"]]


def test_training_sees_the_folder_and_the_settings_as_they_are_now(
    scene: Scene, minivess: Typed, tmp_path: Path
) -> None:
    smaller = shutil.copytree(scene.first, tmp_path / "vessels")
    for part in ("images", "labels"):
        (smaller / part / "vol03.nii.gz").unlink()
    given = (f"data.root={smaller}", "data.name=vessels")
    told = minivess(
        "train", *given, "--upstream", scene.profile, "training.splits=none.json", expected=1
    )
    assert "the folder has changed since that profile" in told["said"]
    # Without its file of folds no training begins; the profile is made.
    minivess("train", *given, "training.splits=none.json", "data.group=^(vol)", expected=1)
    newest = scene.store.search(kind=names.PROFILE)[0]
    assert (newest.run_id != scene.profile, newest.params["data_n_volumes"]) == (True, "3")
