"""Volumes of one animal stay on one side, from the file names to the folds that train."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from minivess import config as configs
from minivess.grid import families
from minivess.orchestration.session import open_session
from minivess.stages.dataset_scan import scan_dataset
from minivess.stages.profile import measure, summary
from tests.conftest import tube, write_nifti


@pytest.fixture
def mice(tmp_path: Path) -> Path:
    """Five animals, two to three days each; one day of m3 is a crop of a day of m1."""
    root = tmp_path / "mice"
    for index, case in enumerate(f"m{i}_day{j}" for i in range(5) for j in range(2 + i % 2)):
        image, mask = tube((32, 28, 10), seed=index)
        if case == "m3_day1":
            image, mask = (array[3:31, 2:26, 1:9] for array in tube((32, 28, 10), seed=2))
        write_nifti(root / "images" / f"{case}.nii.gz", image)
        write_nifti(root / "labels" / f"{case}.nii.gz", mask)
    return root


def by_regex(root: Path) -> list[str]:
    return [r"data.group=^(m\d)_"]


def by_prefix(root: Path) -> list[str]:
    return ["data.group=prefix"]


def by_file(root: Path) -> list[str]:
    names = sorted(path.name.removesuffix(".nii.gz") for path in (root / "images").iterdir())
    (root / "groups.json").write_text(json.dumps({name: name[:2] for name in names}))
    return []


@pytest.mark.slow
@pytest.mark.parametrize("rule", [by_regex, by_prefix, by_file])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_animal_trains_what_it_validates_and_a_shared_crop_is_told(
    mice: Path, rule: Callable[[Path], list[str]], seed: int
) -> None:
    words = [f"data.root={mice}", "training.test_fraction=0.2", *rule(mice)]
    config, env = configs.load(overrides=words), configs.Environment(prefect_disabled=True)
    with open_session(config, replace(env, home=mice.parent / "home")) as session:
        scan = scan_dataset(session)
        profile = summary(session, scan, measure(session, scan))
    made = families.split(config, profile, seed)
    for fold in made.folds:
        animals = [{case[:2] for case in side} for side in (fold.train, fold.val, made.test)]
        assert len(set.union(*animals)) == sum(map(len, animals)) == 5
    leaks = [f for f in profile.findings if f.code == "near_duplicate"]
    assert [(f.severity, f.case) for f in leaks] == [("warning", "m3_day1")]
    assert "m1_day0" in leaks[0].message
