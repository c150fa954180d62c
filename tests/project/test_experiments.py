"""The experiment files of the clone."""

from __future__ import annotations

from pathlib import Path

import pytest

from minivess import config

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
FILES = sorted((CONFIGS / "experiments").glob("*.yaml"))


def words(file: Path) -> list[str]:
    """What the file's first lines ask for beside it."""
    return [] if file.stem in {"demo", "smoke"} else ["data.root=/data/vessels"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_an_experiment_file_loads(file: Path):
    settings = config.load([file], words(file), config.Environment())
    for name in settings.training.losses:
        config.loss(name)
    for name in settings.training.models:
        config.model(name, settings.model)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_an_experiment_file_is_short_and_says_what_it_is_for(file: Path):
    lines = file.read_text().splitlines()
    assert lines[0].startswith("# ")
    assert len(lines) <= 40


@pytest.mark.parametrize("file", sorted((CONFIGS / "tiers").glob("*.yaml")), ids=lambda f: f.stem)
def test_a_tier_file_loads(file: Path):
    assert config.tier(file.stem).name == file.stem
