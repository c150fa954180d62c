"""The page of plans is made by its script."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from tests.compute.machines import EIGHT
from tests.conftest import tube, write_nifti

CLONE = Path(__file__).resolve().parents[2]
MODELS = ("dynunet", "unet", "segresnet", "swinunetr", "vista3d")


@pytest.mark.slow
def test_the_script_writes_what_would_be_decided_for_a_machine_and_a_dataset(
    tmp_path: Path,
) -> None:
    for case in range(3):
        image, mask = tube((40, 40, 9), seed=case)
        write_nifti(tmp_path / f"data/images/v{case}.nii.gz", image)
        write_nifti(tmp_path / f"data/labels/v{case}.nii.gz", mask)
    page = tmp_path / "plans.md"
    runpy.run_path(str(CLONE / "bench" / "plans.py"))["main"](
        ["--folder", f"tubes={tmp_path / 'data'}", "--machines", "laptop", "8 GB",
         "--models", "dynunet", "swinunetr", "--out", str(page)]
    )  # fmt: skip
    text = page.read_text()
    assert "## tubes: 3 volumes, 40x40x9 to 40x40x9" in text
    found = re.findall(r"^\| (laptop|8 GB) \| (\w+) \| (\S+) x (\d+), (\w+), .* \| (.*) \|$", text,
                       re.MULTILINE)  # fmt: skip
    assert [row[:2] for row in found[2:]] == [("laptop", "cpu"), ("8 GB", "gpu_low")]
    assert found[2][2:] == ("40x40x8", "1", "none", "too thin")
    assert found[3][2:] == ("40x40x8", "2", "bf16", "too thin")


def test_the_page_in_the_docs_has_every_machine_for_each_model_and_dataset() -> None:
    text = (CLONE / "docs" / "plans.md").read_text()
    tables = text.split("\n## ")[1:]
    assert len(tables) >= 3
    for table in tables:
        assert f"| machine | tier | {' | '.join(MODELS)} |" in table
        for name in EIGHT:
            row = next(line for line in table.splitlines() if line.startswith(f"| {name} |"))
            assert row.count("|") == len(MODELS) + 3
