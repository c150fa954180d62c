"""The wheel: what somebody gets who installs the product without a clone."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

CLONE = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_wheel_carries_minivess_alone_with_its_settings(tmp_path: Path):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(CLONE / name, source)
    for name in ("src", "configs"):
        shutil.copytree(CLONE / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-qq",
        "--no-deps",
        "-w",
        str(tmp_path),
        str(source),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "No matching distribution found for hatchling" in done.stderr:
        pytest.skip("no package index answers, so no wheel can be built")
    assert done.returncode == 0, done.stderr
    names = set(zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist())
    expected = {f"minivess/_configs/experiments/{f.name}" for f in experiments()}
    assert {"minivess/config/experiment.py", "minivess/cli/main.py", *expected} <= names
    assert not any(name.startswith(("tests/", "configs/", "flows/")) for name in names)


def experiments() -> list[Path]:
    """The experiment files of the clone."""
    return sorted((CLONE / "configs" / "experiments").glob("*.yaml"))
