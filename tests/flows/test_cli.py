"""The command line: quick help, exit codes, one JSON object, verbs that the docs list."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from flows import cli


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from flows import cli; cli.parser().format_help();"
        "heavy = ('torch', 'mlflow', 'prefect', 'pydantic', 'numpy');"
        "print([module for module in heavy if module in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_help_lists_every_verb() -> None:
    text = cli.parser().format_help()
    assert all(f"  {verb} " in text for verb in cli.VERBS)


def test_a_mistyped_verb_is_wrong_usage_and_names_the_nearest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["experimant"]) == 2
    assert "minivess experiment" in capsys.readouterr().err


def test_a_file_that_does_not_exist_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "configs/experiments/nothing.yaml"]) == 2
    assert "configs/experiments/demo.yaml" in capsys.readouterr().err


def test_a_bare_word_that_no_verb_takes_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "epochs"]) == 2
    assert "key=value" in capsys.readouterr().err


def test_config_and_bare_files_are_the_same() -> None:
    bare = cli.read(["train", "configs/experiments/demo.yaml"])
    named = cli.read(["train", "--config", "configs/experiments/demo.yaml"])
    assert bare.files == named.files == ["configs/experiments/demo.yaml"]


def test_a_tier_shorthand_is_the_profile_word() -> None:
    assert cli.read(["plan", "--gpu-low"]).words == ["compute.profile=gpu_low"]


def test_json_is_one_object_on_the_last_line_and_nothing_else_is_on_standard_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["demo-data", str(tmp_path / "demo"), "data.demo_volumes=4", "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line) == {"folder": str(tmp_path / "demo")}
    assert len(list((tmp_path / "demo" / "images").iterdir())) == 4
