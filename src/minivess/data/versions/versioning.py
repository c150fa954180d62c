"""Versions of the data: the curated folder under DVC, which only this module calls."""

from __future__ import annotations

import json
import logging
import shlex
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from minivess import files
from minivess.config import ExperimentConfig, set_environment
from minivess.contracts import Case
from minivess.data.versions.curated import (
    curate,
    curated_folder,
    file_index,
    folder_hash,
    note_state,
    state_file,
)
from minivess.data.versions.transaction import file_transaction, is_committed
from minivess.errors import DataError, MinivessError, RemoteError, UsageError
from minivess.home import Home, lock

log = logging.getLogger(__name__)

REMOTE = "storage"  # the name of our remote in DVC's configuration


@dataclass(frozen=True)
class Version:
    """One version of the data under DVC; paths are absolute."""

    dataset_hash: str
    dvc_file: Path
    remote: str | None
    curated: Path
    home: Path

    def relative(self, path: Path) -> str:
        """Return a path relative to the home folder, as contracts hold it."""
        return path.relative_to(self.home).as_posix()


def commit(
    home: Home,
    dataset: str,
    cases: Iterable[Case],
    *,
    remote: str | None,
    place: str = "",
    review: Mapping[str, Any] | None = None,
    git: bool = False,
) -> Version:
    """Copy the volumes to the curated folder, add it to DVC and push it.

    Args:
        remote: folder or URL of the DVC remote; None for the one below home.
        place: where the originals lie, kept in the .dvc file.
        review: decisions that made this version, kept in the .dvc file.
        git: commit the .dvc file to the Git repository of home/dvc as well.

    Raises:
        DataError: DVC, the remote or Git refuses; then the .dvc file is as it was.
    """
    keep_manual_edits(home, dataset)
    folder = curate(home, dataset, cases)
    where = _address(remote or str(home.dvc / "remote"))
    dvc_file = home.dvc / f"{folder.name}.dvc"
    ours = folder_hash(folder, file_index(home))
    message = f"{folder.name}: {ours}" if git else None
    with _repository(home, where) as repo, file_transaction(dvc_file, message=message):
        (stage,) = repo.add([str(folder)])
        repo.push(targets=[str(dvc_file)], remote=REMOTE)
        hashed, now = str(stage.outs[0].hash_info.value), folder_hash(folder, file_index(home))
        if not hashed == now == ours:
            raise DataError(
                f"DVC's hash is {hashed}, not {now}: {folder} changed while it was added.",
                remedy="run the same command again while nothing writes to that folder",
            )
        _describe(dvc_file, place, review or {})
    return Version(ours, dvc_file, where, folder, home.root)


def is_at(home: Home, dataset: str, dataset_hash: str, *, git: bool = False) -> bool:
    """Whether curated folder and .dvc file (with `git`, its last commit) are this version."""
    folder = curated_folder(home, dataset)
    dvc_file = home.dvc / f"{folder.name}.dvc"
    return (
        folder.is_dir()
        and dvc_file.exists()
        and f"md5: {dataset_hash}\n" in dvc_file.read_text(encoding="utf-8")
        and folder_hash(folder, file_index(home)) == dataset_hash
        and (not git or is_committed(dvc_file))
    )


def restore(home: Home, *, dataset: str, dataset_hash: str, dvc_text: str, remote: str) -> Path:
    """Return the curated folder at exactly this version, from DVC's cache or remote if needed.

    Raises:
        DataError: neither holds this version.
    """
    folder = curated_folder(home, dataset)
    if folder.is_dir() and folder_hash(folder, file_index(home)) == dataset_hash:
        return folder
    keep_manual_edits(home, dataset)
    dvc_file = home.dvc / f"{folder.name}.dvc"
    with _repository(home, _address(remote)) as repo, file_transaction(dvc_file, message=None):
        files.write_text(dvc_file, dvc_text)
        repo.pull(targets=[str(dvc_file)], remote=REMOTE, force=True)
    found = folder_hash(folder, file_index(home))
    note_state(home, folder, found)
    if found != dataset_hash:
        raise DataError(
            f"{remote} gave version {found} of {dataset}, not {dataset_hash}.",
            remedy="minivess profile data.root=/path/to/the/data, which makes and pushes a version",
        )
    return folder


# --- edits by hand ------------------------------------------------------------------------


def manual_edits(home: Home, dataset: str) -> dict[str, list[str]]:
    """Return files changed by hand in the curated folder, by DVC's kinds of change.

    DVC is asked only where the folder's hash is not the one that we left.
    """
    folder = curated_folder(home, dataset)
    dvc_file, state = home.dvc / f"{folder.name}.dvc", state_file(home, folder)
    if not (folder.is_dir() and dvc_file.exists() and state.exists()):
        return {}
    if folder_hash(folder, file_index(home)) == state.read_text(encoding="utf-8"):
        return {}
    with _repository(home, None) as repo:
        changed = repo.data_status(granular=True, untracked_files="no")["uncommitted"]
    inside = f"{folder.name}/"

    def own(name: str) -> bool:
        return name.startswith(inside) and name != inside

    found = {
        how: sorted(name.removeprefix(inside) for name in changed.get(how, ()) if own(name))
        for how in ("modified", "added", "deleted")
    }
    return {how: names for how, names in found.items() if names}


def keep_manual_edits(home: Home, dataset: str) -> None:
    """Copy files that were changed by hand before they are replaced, and log which."""
    changed = manual_edits(home, dataset)
    if not changed:
        return
    folder = curated_folder(home, dataset)
    kept = home.root / "review" / "edits" / time.strftime("%Y%m%dT%H%M%S") / folder.name
    for name in (*changed.get("modified", ()), *changed.get("added", ())):
        files.copy(folder / name, kept / name)
    # What was changed in place took the cache's copy with it.
    _drop_damaged(home)
    listed = "; ".join(f"{how}: {', '.join(names)}" for how, names in changed.items())
    log.warning(
        "%s was changed by hand (%s). Copies are in %s; to let a label count: "
        "minivess review fix CASE --label FILE --why '...'",
        folder, listed, kept,
    )  # fmt: skip


# --- DVC ----------------------------------------------------------------------------------


def _address(remote: str) -> str:
    """Return a URL as it is, a folder as an absolute path."""
    return remote if "://" in remote else str(Path(remote).expanduser().resolve())


def recorded_places(home: Home) -> dict[str, str]:
    """Return where the originals of each dataset of this home lie, as its .dvc file states."""
    found = {}
    for dvc_file in filter(Path.is_file, home.dvc.glob("*.dvc")):
        bare = dvc_file.stem.removeprefix("data-")
        name = bare if curated_folder(home, bare).name == dvc_file.stem else dvc_file.stem
        meta = yaml.safe_load(dvc_file.read_text(encoding="utf-8")).get("meta") or {}
        found[name] = str(meta.get("place", ""))
    return found


def is_place(recorded: str, root: Path | str | None) -> bool:
    """Whether `root` is the place recorded in a profile."""
    if root is None or not recorded or "://" in recorded or isinstance(root, str):
        return str(root).rstrip("/") == recorded.rstrip("/")
    return Path(recorded).resolve() == root.resolve()


def known_as(home: Home, config: ExperimentConfig) -> str | None:
    """Return the name under which `data.root` was profiled, if it is not the folder's own.

    Raises:
        UsageError: it was given several.
    """
    root = config.data.root
    if root is None or config.data.name is not None:
        return None
    given = sorted(name for name, place in recorded_places(home).items() if is_place(place, root))
    if not given or config.dataset in given:
        return None
    if len(given) > 1:
        raise UsageError(
            f"{root} was profiled as {', '.join(given)}, and none is named.",
            remedy=" or ".join(shlex.quote(f"data.name={name}") for name in given),
        )
    return given[0]


def _describe(dvc_file: Path, place: str, review: Mapping[str, Any]) -> None:
    """Write place and decisions into `meta` of the .dvc file, which DVC leaves to its users."""
    content = yaml.safe_load(dvc_file.read_text(encoding="utf-8"))
    content["meta"] = {"place": place, "review": json.loads(json.dumps(review))}
    files.write_text(dvc_file, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def _drop_damaged(home: Home) -> None:
    """Remove cached files whose bytes do not match their names; DVC fetches them again."""
    for path in (home.dvc / ".dvc" / "cache" / "files" / "md5").glob("??/*"):
        if path.is_file() and files.md5(path) != path.parent.name + path.name.removesuffix(".dir"):
            path.unlink()


@contextmanager
def _repository(home: Home, remote: str | None) -> Iterator[Any]:
    """Open DVC's repository of this home, made on first use, with one remote; translate errors.

    Without a `remote` the one configured before stays.
    """
    # By default DVC writes below /var/tmp and counts uses.
    set_environment(DVC_SITE_CACHE_DIR=str(home.dvc / "tmp" / "site"), DVC_NO_ANALYTICS="1")
    from dvc.repo import Repo

    logging.getLogger("dvc").setLevel(logging.WARNING)  # importing dvc sets it to INFO on stdout
    _hide_bars()
    with lock(home.dvc / ".lock", what="dvc", wait=True):
        try:
            if not (home.dvc / ".dvc" / "config").exists():
                Repo.init(str(home.dvc), no_scm=True, force=True).close()
            if remote is not None:
                _configure(home, remote)
            with Repo(str(home.dvc)) as repo:
                yield repo
        except MinivessError:
            raise
        except Exception as error:  # each remote's client (s3, ssh, ...) raises its own types
            cause = f" ({error.__cause__})" if error.__cause__ else ""
            raise RemoteError(
                f"DVC could not store or fetch a version with {remote}: {error}{cause}",
                remedy="data.remote=/path/to/a/folder, or correct the remote's address and rights",
            ) from error


def _hide_bars() -> None:
    """Keep DVC's bars and spinners out of our own output; errors of DVC are raised."""
    from dvc.ui import ui
    from rich.console import Console

    for module in ("dvc.progress", "dvc_data.callbacks"):
        logging.getLogger(module).setLevel(logging.CRITICAL)
    vars(ui)["error_console"] = Console(quiet=True)


def _configure(home: Home, remote: str) -> None:
    text = f"""[core]
    analytics = false
    no_scm = True
    remote = {REMOTE}
    check_update = false
    site_cache_dir = "{home.dvc / "tmp" / "site"}"
[cache]
    type = "reflink,hardlink,copy"
['remote "{REMOTE}"']
    url = "{remote}"
"""
    path = home.dvc / ".dvc" / "config"
    if path.read_text(encoding="utf-8") != text:
        files.write_text(path, text)
