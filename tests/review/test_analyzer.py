"""MONAI's DataAnalyzer: its YAML, and what it leaves out without a word."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import yaml

from minivess.config import DataConfig
from minivess.data.pairing.cases import pair_files
from minivess.review.pages.analyzer import run_analyzer
from tests.conftest import tube, write_nifti

MakeDataset = Callable[..., Path]


def test_its_yaml_is_written_and_what_it_skipped_is_a_finding(
    make_dataset: MakeDataset, tmp_path: Path
) -> None:
    root = make_dataset(3, value=255)
    image, _ = tube((24, 26, 6), seed=1)
    write_nifti(root / "images" / "vol01.nii.gz", image.astype(np.int16) - 5000)
    config = DataConfig(label_map={255: 1})
    (summary, each), (finding,) = run_analyzer(
        pair_files(root).cases, tmp_path / "out", config=config
    )
    assert yaml.safe_load(summary.read_text())["stats_summary"]["n_cases"] == 2
    cases = yaml.safe_load(each.read_text())["stats_by_cases"]
    assert [case["image_filepath"] for case in cases] == ["vol00", "vol02"]
    assert cases[0]["label_stats"]["labels"] == [0, 1]
    assert (finding.code, finding.severity, finding.case) == (
        "analyzer_skipped", "warning", "vol01",
    )  # fmt: skip
    assert "left it out: " in finding.message


def test_a_set_that_it_skips_whole_gives_findings_and_no_file(
    make_dataset: MakeDataset, tmp_path: Path
) -> None:
    root = make_dataset(1)
    write_nifti(root / "images" / "vol00.nii.gz", np.full((24, 24, 5), -1, np.int16))
    written, (finding,) = run_analyzer(
        pair_files(root).cases, tmp_path / "out", config=DataConfig()
    )
    assert (written, finding.case) == ([], "vol00")
