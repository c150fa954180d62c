"""The wheel: what somebody gets who installs the product without a clone."""

from __future__ import annotations

import configparser
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
    words = ["pip", "wheel", "-qq", "--no-deps", "-w", str(tmp_path), str(source)]
    done = subprocess.run(
        [sys.executable, "-m", *words], capture_output=True, text=True, check=False
    )
    if "No matching distribution found for hatchling" in done.stderr:
        pytest.skip("no package index answers, so no wheel can be built")
    assert done.returncode == 0, done.stderr
    wheel = zipfile.ZipFile(next(tmp_path.glob("*.whl")))
    held = set(wheel.namelist())
    whole = {
        f.relative_to(CLONE / "src").as_posix() for f in (CLONE / "src").rglob("*")
        if f.is_file() and "__pycache__" not in f.parts
    }  # fmt: skip
    assert "minivess/py.typed" in whole
    assert whole | {f"minivess/_configs/experiments/{f.name}" for f in experiments()} <= held
    assert not any(name.startswith(("tests/", "configs/", "flows/")) for name in held)
    (listed,) = (name for name in held if name.endswith("/entry_points.txt"))
    commands = configparser.ConfigParser()
    commands.read_string(wheel.read(listed).decode())
    module, _, _ = commands["console_scripts"]["minivess"].partition(":")
    path = module.replace(".", "/")
    assert {f"{path}.py", f"{path}/__init__.py"} & held


def experiments() -> list[Path]:
    """The experiment files of the clone."""
    return sorted((CLONE / "configs" / "experiments").glob("*.yaml"))
