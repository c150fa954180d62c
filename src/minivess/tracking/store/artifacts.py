"""List, download and test-write artifacts; every size is compared."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from minivess import keys
from minivess.errors import StoreError
from minivess.tracking.store.connection import redact, translate_errors

if TYPE_CHECKING:
    from mlflow import MlflowClient


LONGEST_FOLDER = 200 - len(f"/{32 * 'x'}/artifacts")
"""Longest artifact folder: MLflow's databases hold 200 characters of a run's artifact URI."""


def folder(root: str, experiment: str, *, bounded: bool) -> str:
    """Artifact folder of an experiment: its name, shortened to what MLflow can hold.

    Args:
        bounded: the database enforces the limit, as all but SQLite do.

    Raises:
        StoreError: the root alone is too long.
    """
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", experiment).strip("-.") or "experiment"
    room = LONGEST_FOLDER - len(f"{root}/")
    if len(slug) > room:
        digest = keys.digest(experiment)[:8]
        slug = f"{slug[: max(room - len(digest) - 1, 0)]}-{digest}".lstrip("-")
    if bounded and len(slug) > room:
        raise StoreError(
            f"The artifact folder {root} is too long: MLflow's database holds {LONGEST_FOLDER} "
            "characters, with the experiment's name.",
            remedy="set tracking.artifact_root to a shorter folder",
        )
    return f"{root}/{slug}"


def listing(client: MlflowClient, run_id: str, path: str | None = None) -> dict[str, int]:
    """Return artifact path -> size in bytes, of a run or of one of its folders."""
    with translate_errors(f"list the artifacts of run {run_id}"):
        return dict(_walk(client, run_id, path))


def local_folder(uri: str) -> Path | None:
    """Return the local folder of an artifact URI; None for a remote one."""
    parts = urlsplit(uri)
    if parts.scheme not in ("", "file"):
        return None
    return Path(unquote(parts.path) if parts.scheme else uri)


def _walk(client: MlflowClient, run_id: str, path: str | None) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    entries = client.list_artifacts(run_id, path)
    if not entries and path:
        # A file lists nothing below itself; its size is in the listing of its folder.
        parent = str(PurePosixPath(path).parent)
        siblings = client.list_artifacts(run_id, None if parent == "." else parent)
        entries = [entry for entry in siblings if entry.path == path and not entry.is_dir]
    for entry in entries:
        if entry.is_dir:
            found += _walk(client, run_id, entry.path)
        else:
            found.append((entry.path, int(entry.file_size or 0)))
    return found


def download(client: MlflowClient, run_id: str, path: str, into: Path) -> Path:
    """Download an artifact (file or folder) to `into`/<its name>; a complete copy there is kept.

    Raises:
        StoreError: it is absent, or a downloaded file has another size than in the store.
    """
    expected = listing(client, run_id, path)
    if not expected:
        raise StoreError(
            f"Run {run_id} holds no artifact {path}.",
            remedy="give the id of a run that is FINISHED, or run the flow that makes it again",
        )
    target = into / PurePosixPath(path).name
    if _sizes(target, path, expected) == expected:
        return target
    into.mkdir(parents=True, exist_ok=True)
    with (
        translate_errors(f"download {path} of run {run_id}"),
        tempfile.TemporaryDirectory(dir=into, prefix=".download-") as temporary,
    ):
        found = Path(client.download_artifacts(run_id, path, temporary))
        require_sizes(_sizes(found, path, expected), expected, what=f"run {run_id}")
        if target.is_dir():
            shutil.rmtree(target)
        found.replace(target)
    return target


def try_writing(root: str, tracking_uri: str) -> None:
    """Write a small file at an artifact root, read it back and remove it.

    Raises:
        StoreError: the artifact store cannot be written.
    """
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    with (
        translate_errors(f"write to the artifact store at {redact(root)}"),
        tempfile.TemporaryDirectory(prefix="minivess-") as temporary,
    ):
        name = f"write-test-{Path(temporary).name}"
        file = Path(temporary) / "test.txt"
        file.write_text("ok", encoding="utf-8")
        repository: Any = get_artifact_repository(root, tracking_uri=tracking_uri)
        try:
            repository.log_artifact(str(file), name)
            into = Path(temporary) / "back"
            into.mkdir()
            back = Path(repository.download_artifacts(f"{name}/test.txt", str(into)))
            written = back.read_text(encoding="utf-8")
        finally:
            repository.delete_artifacts(name)
    if written != "ok":
        raise StoreError(
            f"The artifact store at {redact(root)} returned other bytes than were written.",
            remedy="check that store, or set tracking.artifact_root to another",
        )


def _sizes(place: Path, path: str, expected: Mapping[str, int]) -> dict[str, int]:
    """Artifact path -> size of the files of artifact `path` found at `place`."""
    files = {name: place / PurePosixPath(name).relative_to(path) for name in expected}
    return {name: file.stat().st_size for name, file in files.items() if file.is_file()}


def require_sizes(found: Mapping[str, int], expected: Mapping[str, int], *, what: str) -> None:
    """Require every file to have its expected size.

    Raises:
        StoreError: a file is missing or has another size.
    """
    for path, size in expected.items():
        if found.get(path) != size:
            raise StoreError(
                f"{path} of {what} should have {size} bytes and has {found.get(path, 'none')}.",
                remedy="check free disk space and size limits between here and the store, then run "
                "the same command again",
            )
