"""The words that users type: every verb has its recipe, and reaches the product untouched."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from minivess.verbs import VERBS

CLONE = Path(__file__).resolve().parents[2]
JUST = Path(sys.executable).with_name("just")

pytestmark = pytest.mark.skipif(not JUST.exists(), reason="rust-just is not in this environment")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A justfile whose product tells where it stands and what it was told."""
    clone = tmp_path / "a clone"
    (clone / ".just").mkdir(parents=True)
    shutil.copy(CLONE / "justfile", clone)
    (clone / ".just" / "environment.py").write_text("")
    product = clone / ".venv" / "bin" / "minivess"
    product.parent.mkdir(parents=True)
    product.write_text('#!/bin/sh\npwd\nprintf "%s\\n" "$@"\nexit ${CODE:-0}\n')
    product.chmod(0o755)
    return clone


def just(*words: str, folder: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run just in a folder; the product ends with `code`."""
    return subprocess.run(
        [JUST, *words],
        cwd=folder,
        env={**os.environ, "CODE": str(code)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_verb_has_a_recipe():
    assert set(VERBS) <= set(just("--summary", folder=CLONE).stdout.split())


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_words_arrive_as_they_were_typed(verb: str, clone: Path):
    words = ["data.image=*_(img).nii.gz", "training.losses=[dice_ce, cbdice]", "--json", "name=a'b"]
    done = just(verb, *words, folder=clone)
    assert done.stdout.splitlines() == [str(clone), verb, *words]


def test_the_product_is_told_that_just_called(clone: Path):
    (clone / ".venv" / "bin" / "minivess").write_text('#!/bin/sh\necho "$MINIVESS_CALLER"\n')
    assert just("help", "train", folder=clone).stdout == "just\n"


def test_paths_mean_the_folder_of_the_caller(clone: Path):
    (clone / "deep" / "er").mkdir(parents=True)
    done = just("plan", "data.root=here", folder=clone / "deep" / "er")
    assert done.stdout.splitlines()[0] == str(clone / "deep" / "er")


def test_a_justfile_can_be_named_from_elsewhere(clone: Path, tmp_path: Path):
    done = just("-f", str(clone / "justfile"), "plan", folder=tmp_path)
    assert done.stdout.splitlines() == [str(tmp_path), "plan"]


@pytest.mark.parametrize("code", [1, 2, 130])
def test_the_exit_code_of_the_product_is_the_one_of_just(code: int, clone: Path):
    done = just("experiment", folder=clone, code=code)
    assert (done.returncode, done.stderr) == (code, "")


def test_quick_tests_are_chosen_by_their_markers(clone: Path):
    python = clone / ".venv" / "bin" / "python"
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)
    quick = just("test", "quick", "tests/data", folder=clone).stdout.splitlines()
    assert quick[-3:] == ["-m", "not slow and not gpu", "tests/data"]
    assert just("test", "-x", folder=clone).stdout.splitlines()[-1:] == ["-x"]


def test_a_forge_runs_the_projects_own_check_and_nothing_else():
    for workflow in (CLONE / ".github" / "workflows").glob("*.yml"):
        jobs = yaml.safe_load(workflow.read_text())["jobs"].values()
        assert [s["run"] for job in jobs for s in job["steps"] if "run" in s] == [".ci/run"]
    assert os.access(CLONE / ".ci" / "run", os.X_OK)


def test_just_alone_lists_the_recipes(clone: Path):
    listed = just(folder=clone).stdout
    assert "experiment" in listed
    assert "ready" not in listed


@pytest.mark.parametrize(("recipe", "tool", "words"), [
    (["notebook", "--headless"], "marimo", ["run", "CLONE/notebooks/workspace.py", "--headless"]),
    (["notebook", "export", "a b.html"], "marimo",
     ["export", "html", "--no-include-code", "CLONE/notebooks/workspace.py", "-o", "a b.html"]),
    (["docs"], "mkdocs", ["build", "--strict"]),
    (["docs", "serve"], "mkdocs", ["serve", "--strict"]),
])  # fmt: skip
def test_the_notebook_and_the_site_are_those_of_the_clone(
    recipe: list[str], tool: str, words: list[str], clone: Path
) -> None:
    program = clone / ".venv" / "bin" / tool
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)
    shown = just(*recipe, folder=clone).stdout.splitlines()
    assert shown == [word.replace("CLONE", str(clone)) for word in words]
