"""The environment that `just` makes: whole, or noticed not to be."""

from __future__ import annotations

import importlib.util
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

CLONE = Path(__file__).resolve().parents[2]


@pytest.fixture
def environment(tmp_path: Path) -> ModuleType:
    """The script in a clone of its own, with a small finished environment and one package."""
    (tmp_path / ".just").mkdir()
    for name in (".just/environment.py", "pyproject.toml", "constraints.txt"):
        shutil.copy(CLONE / name, tmp_path / name)
    spec = importlib.util.spec_from_file_location("env", tmp_path / ".just" / "environment.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", script.VENV], check=True)
    package = packages(script)
    (package / "vessels").mkdir()
    (package / "vessels" / "__init__.py").write_text("x = 1\n")
    record = package / "vessels-1.0.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: vessels\nVersion: 1.0\n")
    (record / "RECORD").write_text("vessels/__init__.py,,6\n")
    (script.VENV / "bin" / "minivess").write_text("#!/bin/sh\n")
    script.write_stamp({"dev"})
    return script


def packages(script: ModuleType) -> Path:
    """The folder of installed packages."""
    found: Path = next((script.VENV / "lib").glob("python3*/site-packages"))
    return found


def test_a_whole_environment_is_left_alone_and_costs_nothing(environment: ModuleType):
    command = [sys.executable, "-I", environment.__file__, "dev"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 2


def test_a_package_that_the_user_adds_is_no_damage(environment: ModuleType):
    (packages(environment) / "mine").mkdir()
    assert environment.missing(set()) == ""


@pytest.mark.parametrize(
    ("reason", "damage"),
    [
        ("first time", lambda e: shutil.rmtree(e.VENV)),
        ("not finished", lambda e: e.STAMP.unlink()),
        ("not finished", lambda e: e.STAMP.write_text('{"clone": ')),
        ("Python is gone", lambda e: (e.VENV / "bin" / "python").unlink()),
        ("changed", lambda e: (e.CLONE / "constraints.txt").write_text("torch==1.0\n")),
        ("changed", lambda e: (e.CLONE / "pyproject.toml").write_text("")),
        ("missing", lambda e: shutil.rmtree(packages(e) / "vessels")),
        ("missing", lambda e: (e.VENV / "bin" / "minivess").unlink()),
        ("missing", lambda e: (e.VENV / "pyvenv.cfg").unlink()),
    ],
)
def test_damage_is_noticed_and_named(
    reason: str, damage: Callable[[ModuleType], object], environment: ModuleType
):
    damage(environment)
    assert reason in environment.missing(set())


def test_tools_for_developers_are_added_when_asked_for(environment: ModuleType):
    environment.write_stamp(set())
    assert environment.missing(set()) == ""
    assert environment.missing({"dev"}) == "dev asked for"


def test_a_moved_clone_is_noticed(environment: ModuleType, tmp_path: Path):
    moved = tmp_path.rename(tmp_path.with_name(f"{tmp_path.name}-moved"))
    script = moved / ".just" / "environment.py"
    code = (
        f"import sys; sys.path.insert(0, {str(script.parent)!r}); import environment as e; "
        "print(e.missing(set()), e.moved())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "made elsewhere" in done.stdout
    assert "True" in done.stdout


def test_an_environment_without_its_marker_is_not_used(environment: ModuleType):
    (environment.VENV / "pyvenv.cfg").unlink()
    assert not environment.usable()


def test_cut_and_missing_files_are_found(environment: ModuleType, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "path", [str(packages(environment))])
    assert list(environment.broken()) == []
    (packages(environment) / "vessels" / "__init__.py").write_text("x =")
    assert list(environment.broken()) == ["vessels==1.0"]


def test_a_package_that_was_cut_short_loses_its_record(environment: ModuleType):
    record = packages(environment) / "vessels-1.0.dist-info"
    (record / "RECORD").unlink()
    environment.sweep()
    assert not record.exists()


def test_an_old_python_is_refused_with_a_remedy(
    environment: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(environment, "probe", lambda python, modules="sys": "3.9")
    with pytest.raises(SystemExit, match="1"):
        environment.find_python()
    assert "3.9" in (said := capsys.readouterr().err)
    assert "Try: install one" in said


def test_a_python_without_venv_is_refused_naming_the_package(
    environment: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(
        environment, "probe", lambda python, modules="sys": "3.11" if modules == "sys" else ""
    )
    with pytest.raises(SystemExit):
        environment.find_python()
    assert "apt install python3.11-venv" in capsys.readouterr().err


def test_a_second_set_up_waits_for_the_first(environment: ModuleType):
    code = (
        f"import sys; sys.path.insert(0, {str(environment.CLONE / '.just')!r})\n"
        "import environment as e\n"
        "with e.locked(): print('mine')"
    )
    command = [sys.executable, "-c", code]
    with environment.locked():
        second = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert second.stderr is not None
        assert "waiting" in second.stderr.readline()
        assert second.poll() is None
    assert second.communicate(timeout=300)[0] == "mine\n"


def test_an_extra_that_does_not_exist_is_refused_with_those_that_do(
    environment: ModuleType, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit):
        environment.main(["--repair", "seek s3"])
    assert "There is no extra seek" in capsys.readouterr().err
