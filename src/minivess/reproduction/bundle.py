"""Folder with everything a rerun needs, alone or packed as a portable bundle.

It holds a small MLflow store with the run, its folds and its profile, and the uncommitted changes
of its code; a bundle holds the commit and the volumes, too.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from minivess import files, names
from minivess import home as homes
from minivess.config import TrackingConfig
from minivess.contracts import DatasetProfile, FamilyRun, RunRecord
from minivess.data.versions import versioning
from minivess.errors import StoreError
from minivess.orchestration.session import Session
from minivess.reproduction import code_state
from minivess.runtime.archives import MANIFEST, Archive, hashes
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
    files.write_json(folder / MANIFEST, {"sha256": hashes(folder)})
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
        StoreError: no bundle, a damaged one, or one that names files outside its own folder.
    """
    folder = fresh_folder(session, source.stem)
    remedy = "make one where the run is: minivess reproduce RUN_ID --export FILE.zip"
    archive = Archive(source, StoreError, remedy)
    if source.is_dir():
        shutil.copytree(source, folder, dirs_exist_ok=True, symlinks=True)
    else:
        archive.extract(folder)
    links = [path for path in folder.rglob("*") if path.is_symlink()]
    if links:
        raise archive.outside(str(links[0].relative_to(folder)))
    if not (folder / RECIPE).is_file():
        raise archive.refused(f"it is no bundle, because it holds no {RECIPE}")
    if (folder / MANIFEST).is_file():
        archive.check(folder)
    else:
        session.print(f"  warning: an earlier release made {source}; its content is not checked")
    home = homes.open_home(folder / "home", moved=True)
    store = open_store(home, TrackingConfig())
    if home.last_root != home.root:
        rebase.apply(store, str(home.last_root), str(home.root))
        home.mark_moved()
    for record in store.search():
        place = artifacts.local_folder(record.artifact_uri)
        if place is None or not place.resolve().is_relative_to(home.root):
            raise archive.outside(record.artifact_uri)
    return folder
