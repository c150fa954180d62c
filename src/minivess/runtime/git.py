"""Run Git in a folder: it asks nothing, and takes no lock that another Git would wait for."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from minivess import config

NOT_INSTALLED = 127
"""The exit code where there is no Git, as shells have it."""


def run(
    folder: Path, *words: str, timeout: float | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run `git WORDS` in `folder`; `variables` are added to its environment.

    Raises:
        subprocess.TimeoutExpired: it takes longer than `timeout` seconds.
    """
    git = shutil.which("git")
    if git is None:
        return subprocess.CompletedProcess(words, NOT_INSTALLED, "", "git is not installed")
    return subprocess.run(
        [git, "-C", str(folder), *words],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout,
        check=False,
        stdin=subprocess.DEVNULL,
        env=config.child_environment(GIT_OPTIONAL_LOCKS="0", GIT_TERMINAL_PROMPT="0", **variables),
    )


def answer(folder: Path, *words: str, timeout: float | None = None) -> str | None:
    """What Git prints, stripped; None if it fails or is not installed."""
    done = run(folder, *words, timeout=timeout)
    return done.stdout.strip() if done.returncode == 0 else None


def tracks(folder: Path, name: str) -> bool:
    """Whether a repository holds this file of `folder`.

    An installed copy inside another repository is no part of that repository.
    """
    return answer(folder, "ls-files", "--error-unmatch", name) is not None
