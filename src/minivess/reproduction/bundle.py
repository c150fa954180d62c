"""Folder with everything a rerun needs, alone or packed as a portable bundle.

It holds a small MLflow store with the run, its folds and its profile, and the uncommitted changes
of its code; a bundle holds the commit and the volumes, too.
"""

from __future__ import annotations

import shutil
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from minivess import files, names
from minivess import home as homes
from minivess.config import TrackingConfig
from minivess.contracts import DatasetProfile, FamilyRun, RunRecord
from minivess.data.versions import versioning
from minivess.errors import MinivessError, StoreError
from minivess.orchestration.session import Session
from minivess.reproduction import code_state
from minivess.tracking.store import artifacts
from minivess.tracking.store.store import Store, open_store
from minivess.upkeep import rebase
from minivess.upkeep.run_copy import copy as copy_run

RECIPE, PACKED, DIFF = "recipe.json", "code.bundle", "git.diff"
HEAVY = ("checkpoints", "model", "figures")


class Recipe(NamedTuple):
    """What a rerun needs to know beside the store in its folder."""

    run_id: str
    family: str
    cells: tuple[str, ...]
    profile: str
    experiment: str
    commit: str
    version: int = 1


def export(session: Session, run_id: str, target: Path | None) -> Path:
    """Write a bundle that can be trained again on another machine: FILE.zip, or a folder."""
    folder = fresh_folder(session, f"{run_id}-bundle")
    recipe = gather(session.store, run_id, folder, leave=())
    _add_data(folder, recipe)
    repository = code_state.clone()
    if repository is None or not code_state.has(repository, recipe.commit):
        session.print(
            f"  warning: commit {recipe.commit} is not in this clone, so not in the bundle"
        )
    else:
        code_state.pack(repository, recipe.commit, folder / PACKED)
    place = target or Path.cwd() / f"reproduce-{run_id[:8]}.zip"
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.suffix == ".zip":
        shutil.make_archive(str(place.with_suffix("")), "zip", folder)
        shutil.rmtree(folder)
    else:
        shutil.move(folder, place)
    session.print(f"  {place}")
    session.print("  it holds the volumes: share it only with people who may see them")
    session.print(f"  on another machine, in a clone: minivess reproduce {place.name} --trust")
    return place


def gather(source: Store, run_id: str, folder: Path, *, leave: Sequence[str] = HEAVY) -> Recipe:
    """Copy the run, its folds and its profile into the folder's own store.

    Raises:
        StoreError: it is no FINISHED training run.
    """
    family, cells = _training(source, run_id)
    profile = family.params[names.UPSTREAM_PROFILE]
    target = store_of(folder)
    for one in (family.run_id, *(cell.run_id for cell in cells), profile):
        copy_run(source, target, one, leave=leave)
    recipe = Recipe(
        run_id, family.run_id, tuple(cell.run_id for cell in cells), profile, family.experiment,
        family.params["sys_git_commit"],
    )  # fmt: skip
    files.write_json(folder / RECIPE, recipe._asdict())
    files.write_text(folder / DIFF, source.read_text(family.run_id, "environment/git.diff"))
    return recipe


def _training(store: Store, run_id: str) -> tuple[RunRecord, list[RunRecord]]:
    record = store.get(run_id)
    kind = record.tags.get(names.KIND)
    if kind not in (names.FAMILY, names.CELL) or record.status != "FINISHED":
        raise StoreError(
            f"Run {run_id} is a {record.status} run of kind {kind}; only a FINISHED training can "
            "be done again.",
            remedy="give the training run that `minivess lineage` shows for it",
        )
    if kind == names.CELL:
        return store.get(record.tags[names.PARENT]), [record]
    family = FamilyRun.model_validate(store.read_json(run_id, names.TRAINING_ARTIFACT))
    return record, [store.get(child) for child in family.child_run_ids]


def _add_data(folder: Path, recipe: Recipe) -> None:
    """The volumes at the run's version, as the curated folder of the bundle's home."""
    store = store_of(folder)
    profile = DatasetProfile.model_validate(store.read_json(recipe.profile, names.PROFILE_ARTIFACT))
    versioning.restore(
        store.home,
        dataset=profile.dataset,
        dataset_hash=profile.dataset_hash,
        dvc_text=store.read_text(recipe.profile, names.DVC_ARTIFACT),
        remote=str(profile.remote),
    )
    # The curated folder alone is the version; DVC's cache would carry it twice.
    shutil.rmtree(store.home.dvc / ".dvc", ignore_errors=True)


def store_of(folder: Path) -> Store:
    """The MLflow store of a rerun's folder or of an unpacked bundle."""
    return open_store(homes.open_home(folder / "home"), TrackingConfig())


def fresh_folder(session: Session, name: str) -> Path:
    """An empty folder of this home for one rerun."""
    folder = session.home.root / "reproductions" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def unpack(session: Session, source: Path) -> Path:
    """Unpack a bundle into a folder of this home, and point its artifact addresses there.

    Raises:
        StoreError: no bundle, or one that names files outside its own folder.
    """
    folder = fresh_folder(session, source.stem)
    if source.is_dir():
        shutil.copytree(source, folder, dirs_exist_ok=True, symlinks=True)
    else:
        extract(source, folder)
    links = [path for path in folder.rglob("*") if path.is_symlink()]
    if links:
        raise _outside(source, str(links[0].relative_to(folder)))
    if not (folder / RECIPE).is_file():
        raise StoreError(
            f"{source} is no bundle: it holds no {RECIPE}.",
            remedy="make one where the run is: minivess reproduce RUN_ID --export FILE.zip",
        )
    home = homes.open_home(folder / "home", moved=True)
    store = open_store(home, TrackingConfig())
    if home.last_root != home.root:
        rebase.apply(store, str(home.last_root), str(home.root))
        home.mark_moved()
    for record in store.search():
        place = artifacts.local_folder(record.artifact_uri)
        if place is None or not place.resolve().is_relative_to(home.root):
            raise _outside(source, record.artifact_uri)
    return folder


def extract(source: Path, folder: Path) -> None:
    """Unpack a zip or tar file whose members all stay inside the folder."""
    try:
        if zipfile.is_zipfile(source):
            with zipfile.ZipFile(source) as archive:
                for name in archive.namelist():
                    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                        raise _outside(source, name)
                archive.extractall(folder)
        elif hasattr(tarfile, "data_filter"):
            with tarfile.open(source) as archive:
                archive.extractall(folder, filter="data")
        else:  # Python 3.11.0 to 3.11.3
            raise StoreError(
                f"This Python does not unpack {source} safely.",
                remedy=f"tar -xf {source} -C FOLDER, then minivess reproduce FOLDER --trust",
            )
    except tarfile.FilterError as error:
        raise _outside(source, error.tarinfo.name) from error
    except MinivessError:
        raise
    except Exception as error:  # of a damaged archive the libraries say so by any error
        raise StoreError(
            f"{source} cannot be unpacked: {error}.", remedy="copy the bundle again from its source"
        ) from error


def _outside(source: Path, name: str) -> StoreError:
    return StoreError(
        f"{source} is refused: {name} leads out of the bundle's folder.",
        remedy="ask whoever sent it for one that `minivess reproduce RUN_ID --export` made",
    )
