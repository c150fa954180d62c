"""A folder is looked at, and the smallest experiment file that runs it is written with reasons."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minivess import config as configs
from minivess.cli import main
from minivess.demo import phantom
from tests.conftest import shared, tube, write_nifti

pytestmark = pytest.mark.usefixtures("stocked")
Init = Callable[..., dict[str, Any]]


@pytest.fixture
def init(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Init:
    """Look at a folder; what is printed as JSON, with the errors' text where it fails."""
    monkeypatch.setenv("PREFECT_DISABLED", "1")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")

    def run(*words: str) -> dict[str, Any]:
        code = main.main(["init", *words, "--json"])
        said = capsys.readouterr()
        if code:
            return {"error": said.err}
        told: dict[str, Any] = json.loads(said.out.splitlines()[-1])
        return told

    return run


def balls(root: Path, names: list[str], value: int = 1) -> Path:
    for seed, name in enumerate(names):
        x, y, z = np.indices((24, 24, 12))
        mask = ((x - 12) ** 2 + (y - 12) ** 2 + (z - 6) ** 2 < 25).astype(np.uint8)
        image = np.random.default_rng(seed).normal(300, 40, mask.shape) + 400.0 * mask
        write_nifti(root / "images" / f"{name}.nii.gz", image.astype(np.int16))
        write_nifti(root / "labels" / f"{name}.nii.gz", mask * np.uint8(value))
    return root


def test_vessels_get_a_loss_of_centrelines_and_each_line_its_reason(
    init: Init, tmp_path: Path
) -> None:
    told = init(str(phantom.make_phantoms(tmp_path / "vessels", n=4, seed=1)))
    assert told["settings"]["training.losses"] == ["dice_ce", "cbdice_cldice"]
    text = Path(told["file"]).read_text()
    lines = [line for line in text.splitlines() if line.startswith("  ")]
    assert all(line.startswith("  # ") for line in lines[::2])
    assert not any(line.startswith("  # ") for line in lines[1::2])
    assert "# Forecast: 4 cells, about " in text
    config = configs.load([Path(told["file"])])
    assert config.training.losses == ("dice_ce", "cbdice_cldice")
    assert config.data.root == tmp_path / "vessels"


def test_groups_and_label_values_are_proposed_with_their_other_meanings(
    init: Init, tmp_path: Path
) -> None:
    root = balls(tmp_path / "mice", [f"m{i}_{side}" for i in (1, 2, 3) for side in "ab"], value=255)
    told = init(str(root))
    assert told["settings"]["data.group"] == "prefix"
    assert told["settings"]["data.label_map"] == {"255": 1}
    assert told["settings"]["training.losses"] == ["dice_ce"]
    text = Path(told["file"]).read_text()
    assert "m1 (m1_a, m1_b)" in text
    config = configs.load([Path(told["file"])])
    assert (config.data.group, config.data.label_map) == ("prefix", {255: 1})


def test_a_second_look_changes_nothing_and_says_what_the_data_now_ask_for(
    init: Init, tmp_path: Path
) -> None:
    root = balls(tmp_path / "mice", ["a", "b", "c", "d"])
    path = Path(init(str(root))["file"])
    before = path.read_text()
    assert init(str(root))["changes"] == []
    balls(root, [f"m{i}_{side}" for i in (1, 2, 3, 4) for side in "ab"])
    again = init(str(root))
    assert again["written"] is False
    assert any(
        line.startswith("data.group: prefix, which is not there") for line in again["changes"]
    )
    assert path.read_text() == before


def test_what_the_user_states_stays_and_what_cannot_be_read_is_refused(
    init: Init, tmp_path: Path
) -> None:
    root = balls(tmp_path / "mice", [f"m{i}_{side}" for i in (1, 2, 3) for side in "ab"])
    assert "data.group" not in init(str(root), r"data.group=^(m\d)")["settings"]
    assert "holds no volume" in init(str(tmp_path / "work"))["error"]


def test_a_tube_is_thin_and_a_ball_is_not(init: Init, tmp_path: Path) -> None:
    for seed in range(4):
        image, mask = tube((64, 64, 12), seed)
        thin = np.zeros_like(mask)
        thin[30:34, :, 5:8] = 1
        write_nifti(tmp_path / "tubes" / "images" / f"v{seed}.nii.gz", image)
        write_nifti(tmp_path / "tubes" / "labels" / f"v{seed}.nii.gz", thin)
    assert "cbdice_cldice" in init(str(tmp_path / "tubes"))["settings"]["training.losses"]


@pytest.mark.parametrize(
    ("name", "losses"),
    [("octa_vessels", ["dice_ce", "cbdice_cldice"]), ("hippocampus", ["dice_ce"])],
)
def test_real_vessels_are_thin_and_a_real_hippocampus_is_not(
    name: str, losses: list[str], init: Init, tmp_path: Path
) -> None:
    for kind in ("images", "labels"):
        (tmp_path / name / kind).mkdir(parents=True)
        for file in sorted((shared(name) / kind).iterdir())[:6]:
            (tmp_path / name / kind / file.name).symlink_to(file)
    assert init(str(tmp_path / name))["settings"]["training.losses"] == losses
