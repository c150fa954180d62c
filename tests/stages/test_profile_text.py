"""What flow 1 prints about a dataset: voxel size with its unit, and labels that were turned."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tifffile

from minivess import config as configs
from minivess.contracts import DatasetProfile
from minivess.data.checks import finding
from minivess.orchestration.session import open_session
from minivess.stages.dataset_scan import scan_dataset
from minivess.stages.profile import measure, print_summary, summary
from minivess.stages.profile_text import voxel_size, warning_lines
from tests.conftest import tube

FLIPPED = np.array([[0, -1], [1, 1], [2, 1]])


def told(root: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[DatasetProfile, str]:
    config = configs.load(overrides=[f"data.root={root}", *words])
    env = configs.Environment(prefect_disabled=True, home=root.parent / "home")
    with open_session(config, env) as session:
        scan = scan_dataset(session)
        profile = summary(session, scan, measure(session, scan))
        print_summary(session, profile)
    return profile, capsys.readouterr().out


def save(root: Path, case: str, step: float, *, unit: str | None = "micron") -> None:
    for folder, array in zip(("images", "labels"), tube((20, 22, 6), seed=int(step)), strict=True):
        image = nib.Nifti1Image(array, np.diag([0.5, 0.5, step, 1]))
        image.header.set_xyzt_units(unit)
        (root / folder).mkdir(parents=True, exist_ok=True)
        image = image.as_reoriented(FLIPPED) if (folder, case) == ("labels", "c") else image
        nib.save(image, root / folder / f"{case}.nii.gz")


def test_equal_findings_share_a_line_and_those_of_one_volume_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "set"
    save(root, "a", 2)
    profile, _ = told(root, capsys)
    found = [
        finding("outlier", f"Its spacing along {axis} is {size}.", case=case)
        for case, size in (("a", 1), ("b", 2)) for axis in "xy"
    ]  # fmt: skip
    found += [finding("few_values", "Three values.", case=case) for case in "abcde"]
    lines = list(warning_lines(profile.replace(findings=tuple(found))))
    assert [line.partition(" (")[0] for line in lines] == [
        "  warning: a: Its spacing along x is 1. Its spacing along y is 1.",
        "  warning: b: Its spacing along x is 2. Its spacing along y is 2.",
        "  warning: a, b, c and 2 more: Three values.",
    ]
    copies = [finding("duplicate", f"It is {case}.", case=case) for case in "abcdefg"]
    lines = list(warning_lines(profile.replace(findings=tuple(copies))))
    assert [line.partition(" (")[0] for line in lines] == [
        *(f"  warning: {case}: It is {case}." for case in "abc"),
        "  warning: 4 more volumes, d, e, f, g",
    ]


def test_the_summary_gives_voxel_size_and_unit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "set"
    save(root, "a", 2)
    profile, text = told(root, capsys)
    assert "20x22x6 to 20x22x6, 0.5 x 0.5 x 2 micron, 2 classes" in text
    save(root, "b", 3)
    save(root, "c", 4, unit=None)
    profile, text = told(root, capsys)
    assert voxel_size(profile) == (
        "0.5 x 0.5 x 2 to 0.5 x 0.5 x 3 micron; 0.5 x 0.5 x 4 (unit not stated)"
    )
    assert "(flipped or exchanged axes): 1" in text
    _, text = told(root, capsys, "data.spacing=[500,500,2000]", "data.unit=nm")
    assert "0.5 x 0.5 x 2 micron, 2 classes" in text


def test_a_voxel_size_beside_a_file_is_part_of_the_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "set"
    for folder, array in zip(("images", "labels"), tube((20, 22, 6), seed=0), strict=True):
        (root / folder).mkdir(parents=True)
        tifffile.imwrite(root / folder / "a.tif", array.T)
    sizes = root / "images" / "a.json"
    sizes.write_text('{"spacing": [2, 0.5, 0.5]}')
    first, text = told(root, capsys)
    assert "0.5 x 0.5 x 2 (unit not stated)" in text
    sizes.write_text('{"spacing": [3, 500, 500], "unit": "nm"}')
    second, text = told(root, capsys)
    assert "0.5 x 0.5 x 0.003 micron" in text
    assert first.dataset_hash != second.dataset_hash
