"""Restore the code of a run in a folder of its own: its commit and its uncommitted changes."""

from __future__ import annotations

import re
from pathlib import Path

from minivess import config, files
from minivess.errors import OrchestrationError
from minivess.runtime import git
from minivess.tracking.run.environment import CUT, LEFT_OUT, UNKNOWN

REF = "refs/minivess/reproduce"


def clone() -> Path | None:
    """The repository that this package runs from; None for an installed copy."""
    package = Path(config.__file__).parent
    if not git.tracks(package, "__init__.py"):
        return None
    return Path(_git(package, "rev-parse", "--show-toplevel"))


def has(repository: Path, commit: str) -> bool:
    """Whether a commit is here, or can be fetched from `origin`."""
    commit_object = f"{commit}^{{commit}}"
    if git.answer(repository, "cat-file", "-e", commit_object) is None:
        git.answer(repository, "fetch", "--quiet", "origin", commit)
    return commit != UNKNOWN and git.answer(repository, "cat-file", "-e", commit_object) is not None


def pack(repository: Path, commit: str, file: Path) -> None:
    """Write the history up to a commit into one file (git bundle)."""
    _git(repository, "update-ref", REF, commit)
    try:
        _git(repository, "bundle", "create", "--quiet", str(file), REF)
    finally:
        _git(repository, "update-ref", "-d", REF)


def check_out(source: Path, commit: str, folder: Path) -> None:
    """Make a repository at this commit, from a clone (left unchanged) or a packed history."""
    folder.mkdir(parents=True)
    _git(folder, "init", "--quiet")
    if source.is_dir():
        shared = _git(source, "rev-parse", "--path-format=absolute", "--git-path", "objects")
        files.write_text(folder / ".git" / "objects" / "info" / "alternates", f"{shared}\n")
    else:
        _git(folder, "fetch", "--quiet", str(source), REF)
    _git(folder, "checkout", "--quiet", "--detach", commit)


def apply(folder: Path, diff: Path) -> list[str]:
    """Apply the uncommitted changes; returns a sentence for each part that cannot be restored."""
    text = diff.read_text(encoding="utf-8")
    lost = [
        f"new file {line.removeprefix(LEFT_OUT).strip()}: too large to be kept with the run"
        for line in text.splitlines()
        if line.startswith(LEFT_OUT)
    ]
    if not text.strip() or text.rstrip().endswith(CUT):
        return lost + (["the uncommitted changes: too large to be kept"] if text.strip() else [])
    if not re.search(r"^diff --git ", text, re.MULTILINE):
        return lost
    if git.answer(folder, "apply", "--whitespace=nowarn", str(diff.resolve())) is None:
        lost.append("the uncommitted changes: git apply refuses them")
    return lost


def _git(folder: Path, *words: str) -> str:
    found = git.answer(folder, *words)
    if found is None:
        raise OrchestrationError(
            f"git {' '.join(words)} failed in {folder}.",
            remedy="run the same command in a clone of the project with git installed",
        )
    return found
