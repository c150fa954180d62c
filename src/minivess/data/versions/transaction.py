"""Change a version's file and commit it to Git together, or neither, even if the process is killed.

The file as it was lies in a journal until everything is done; who comes next puts it back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from minivess import files
from minivess.errors import DataError
from minivess.runtime import git

IGNORE = (
    "# Only the small files that name versions; DVC keeps the volumes.\n*\n!*.dvc\n!.gitignore\n"
)
AUTHOR = ("-c", "user.name=minivess", "-c", "user.email=minivess@localhost")


@contextmanager
def file_transaction(path: Path, *, message: str | None) -> Iterator[None]:
    """Change `path` in the block; then commit it to the Git repository of its folder if asked to.

    Raises:
        DataError: Git refuses; then the file is as it was.
    """
    journal = path.with_name(f".{path.name}.before")
    roll_back(path)
    before = path.read_text(encoding="utf-8") if path.exists() else None
    files.write_json(journal, {"text": before, "head": _head(path.parent)})
    try:
        yield
        if message is not None:
            _commit(path, message)
    except BaseException:
        roll_back(path)
        raise
    _done(journal)


def roll_back(path: Path) -> None:
    """Undo what a killed or failed change left, unless its Git commit was made."""
    journal = path.with_name(f".{path.name}.before")
    if not journal.exists():
        return
    noted = files.read_json(journal)
    if _head(path.parent) == noted["head"]:
        if noted["text"] is None:
            path.unlink(missing_ok=True)
        else:
            files.write_text(path, noted["text"])
    journal.unlink()


def is_committed(path: Path) -> bool:
    """Whether the Git repository of its folder holds the file as it is."""
    return _head(path.parent) is not None and not _git(
        path.parent, "status", "--porcelain", "--", path.name
    )


def _done(journal: Path) -> None:
    journal.unlink()


def _commit(path: Path, message: str) -> None:
    folder = path.parent
    if not (folder / ".git").exists():
        _git(folder, "init", "--quiet", str(folder))
    if not (folder / ".gitignore").exists():
        files.write_text(folder / ".gitignore", IGNORE)
    _git(folder, "add", "--", path.name, ".gitignore")
    if _git(folder, "status", "--porcelain", "--", path.name, ".gitignore"):
        author = () if _git(folder, "config", "--default", "", "user.email") else AUTHOR
        _git(folder, *author, "commit", "--quiet", "-m", message, "--", path.name, ".gitignore")


def _head(folder: Path) -> str | None:
    """Return the current commit of a folder's repository; None if there is none."""
    if not (folder / ".git").exists():
        return None
    return _git(folder, "rev-parse", "--verify", "--quiet", "HEAD", needed=False) or None


def _git(folder: Path, *words: str, needed: bool = True) -> str:
    # Both are named: a folder above may be a repository of its own.
    done = git.run(folder, "--git-dir", str(folder / ".git"), "--work-tree", str(folder), *words)
    if done.returncode == git.NOT_INSTALLED:
        raise DataError(
            "data.git_commit=true needs Git, which is not installed.",
            remedy="install git, or leave data.git_commit out",
        )
    if needed and done.returncode != 0:
        raise DataError(
            f"Git could not commit the version in {folder}: {done.stderr.strip()}",
            remedy=f"fix it there (git -C {folder} status), or leave data.git_commit out",
        )
    return done.stdout.strip()
