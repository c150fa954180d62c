"""What is known about machine and code, and that not knowing stops nothing."""

from __future__ import annotations

import platform
import resource
import shutil
import socket
import subprocess
import time
from importlib import metadata
from pathlib import Path

import pytest

from minivess import config
from minivess.tracking.run import environment, required_fields


def git(folder: Path, *words: str) -> str:
    settings = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    done = subprocess.run(
        ["git", "-C", str(folder), *settings, *words], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository that the package seems to be imported from."""
    folder = tmp_path / "clone"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    (folder / "__init__.py").write_text("A = 1\n")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "one")
    monkeypatch.setattr(config, "__file__", str(folder / "__init__.py"))
    environment.collect.cache_clear()
    return folder


@pytest.fixture(autouse=True)
def _forget() -> None:
    environment.collect.cache_clear()


def test_a_clean_clone_is_its_commit(clone: Path) -> None:
    params = environment.collect().params
    assert params["sys_git_commit"] == git(clone, "rev-parse", "HEAD")
    assert params["sys_git_commit"].startswith(params["sys_git_commit_short"])
    assert (params["sys_git_branch"], params["sys_git_dirty"]) == ("main", "False")


def test_a_changed_clone_is_dirty_and_keeps_its_difference(clone: Path) -> None:
    (clone / "__init__.py").write_text("A = 2\n")
    found = environment.collect()
    assert found.params["sys_git_dirty"] == "True"
    assert "+A = 2" in found.files["git.diff"]


def test_the_difference_carries_new_files_and_makes_the_commit_what_lies_here(
    clone: Path, tmp_path: Path
) -> None:
    (clone / "__init__.py").write_text("A = 2\n")
    (clone / "deep").mkdir()
    (clone / "deep" / "own loss.py").write_text("B = 3\n")
    (clone / "large.bin").write_bytes(bytes(environment.NEW_FILE_LIMIT + 1))
    staged = git(clone, "status", "--porcelain")
    diff = environment.collect().files["git.diff"]
    assert git(clone, "status", "--porcelain") == staged
    assert diff.startswith(f"{environment.LEFT_OUT} large.bin\n")
    git(tmp_path, "clone", "-q", str(clone), "again")
    (tmp_path / "the.diff").write_text(diff)
    git(tmp_path / "again", "apply", str(tmp_path / "the.diff"))
    assert (tmp_path / "again" / "__init__.py").read_text() == "A = 2\n"
    assert (tmp_path / "again" / "deep" / "own loss.py").read_text() == "B = 3\n"


def test_the_params_are_exactly_those_of_the_contract_and_take_under_a_second() -> None:
    took = []
    for _ in range(3):
        environment.collect.cache_clear()
        begun = time.process_time() + children()
        params = environment.collect().params
        took.append(time.process_time() + children() - begun)
    assert set(params) == {f"sys_{name}" for name in required_fields.SYS}
    assert min(took) < 1


def children() -> float:
    """Processor seconds of processes that were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize("kind", [OSError, ValueError, KeyError, subprocess.TimeoutExpired])
def test_no_collector_can_abort_a_run(monkeypatch: pytest.MonkeyPatch, kind: type) -> None:
    def broken(*_: object, **__: object) -> None:
        raise kind("git", 5) if kind is subprocess.TimeoutExpired else kind("no")

    for module, name in (
        (subprocess, "run"), (metadata, "distributions"),
        (platform, "platform"), (socket, "gethostname"),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, broken)
    found = environment.collect()
    assert {f"sys_{name}" for name in required_fields.SYS} <= set(found.params)
    assert found.params["sys_git_commit"] == found.params["sys_hostname"] == "unknown"
    assert found.info == {}


def test_a_detached_head_is_named_with_its_commit(clone: Path) -> None:
    git(clone, "checkout", "-q", "--detach")
    params = environment.collect().params
    short = params["sys_git_commit_short"]
    assert params["sys_git_branch"] == f"HEAD (detached at {short})"


def test_a_copy_inside_somebody_elses_repository_is_no_part_of_it(clone: Path) -> None:
    git(clone, "rm", "-q", "--cached", "__init__.py")
    git(clone, "commit", "-qm", "no longer tracked")
    assert environment.collect().params["sys_git_commit"] == "unknown"


def test_without_git_the_commit_is_unknown(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert environment.collect().params["sys_git_commit"] == "unknown"


def test_every_value_is_text_and_absent_things_have_their_word() -> None:
    params = environment.collect().params
    assert all(isinstance(value, str) and value for value in params.values())
    assert environment.package_version("a-package-that-is-nowhere") == "not_installed"
    if params["sys_gpu_count"] == "0":
        assert params["sys_gpu_model"] == "none"
    if params["sys_torch_version"].endswith("+cpu"):
        assert (params["sys_cuda_version"], params["sys_cudnn_version"]) == ("none", "none")


def test_a_collector_that_fails_costs_its_own_values_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "release", lambda: 1 / 0)
    params = environment.collect().params
    assert params["sys_os_kernel"] == "unknown"
    assert params["sys_numpy_version"] != "not_installed"
