"""Train a run again from MLflow and the DVC remote alone, and compare value by value.

What is needed is first copied into a folder of its own: a small MLflow store with the run, its
folds and its profile, the commit with its uncommitted changes, the folds, the plan. That folder,
with the volumes in it, is also the portable bundle.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import yaml

from minivess import config, files, keys, names
from minivess import home as homes
from minivess.config import TrackingConfig
from minivess.contracts import DatasetProfile, FamilyRun, RunRecord, Split
from minivess.errors import StoreError, TrainingError, UsageError
from minivess.home import Home
from minivess.orchestration.session import Session
from minivess.stages import code_state
from minivess.tracking.store import artifacts
from minivess.tracking.store.store import Store, open_store
from minivess.tracking.upkeep import bundle, comparison, rebase

RECIPE, CODE, PACKED, DIFF = "recipe.json", "code", "code.bundle", "git.diff"
# The rerun gives folds and one point of the grid itself; where runs are kept is this folder.
OURS = ("models", "losses", "seeds", "axes", "folds", "splits", "stratify", "test_fraction",
        "retrain", "refit")  # fmt: skip
HEAVY = ("checkpoints", "model", "figures")
SHOWN = 10


class Recipe(NamedTuple):
    """What a rerun needs to know beside the store in its folder."""

    run_id: str
    family: str
    cells: tuple[str, ...]
    profile: str
    experiment: str
    commit: str
    version: int = 1


def reproduce(session: Session, what: str, *, trust: bool = False) -> dict[str, Any]:
    """Train a run again and compare the results.

    Args:
        what: a run id, or the file or folder of a bundle.
        trust: run the code that a bundle brings.

    Raises:
        UsageError: a bundle without `trust`, or `trust` without a bundle.
    """
    source = Path(what).expanduser()
    if source.exists():
        if not trust:
            raise UsageError(
                f"The bundle {source} brings its own code, which would run here with your rights.",
                remedy=f"if you trust who made it: minivess reproduce {what} --trust",
            )
        folder = unpack(session, source.resolve())
    elif trust:
        raise UsageError(
            f"--trust is for a bundle, and {what} is no file.",
            remedy=f"minivess reproduce {what}",
        )
    else:
        run_id = session.store.get(what).run_id
        folder = _fresh(session, run_id)
        gather(session.store, run_id, folder)
    return rerun(session, folder)


def export(session: Session, run_id: str, target: Path | None) -> Path:
    """Write a bundle that can be trained again on another machine: FILE.zip, or a folder."""
    folder = _fresh(session, f"{run_id}-bundle")
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


# --- gathering ----------------------------------------------------------------------------


def gather(source: Store, run_id: str, folder: Path, *, leave: Sequence[str] = HEAVY) -> Recipe:
    """Copy the run, its folds and its profile into the folder's own store.

    Raises:
        StoreError: it is no FINISHED training run.
    """
    family, cells = _training(source, run_id)
    profile = family.params[names.UPSTREAM_PROFILE]
    target = _store_of(folder)
    for one in (family.run_id, *(cell.run_id for cell in cells), profile):
        bundle.copy(source, target, one, leave=leave)
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
    from minivess.data.versions import versioning

    store = _store_of(folder)
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


def _store_of(folder: Path) -> Store:
    """The MLflow store of a rerun's folder or of an unpacked bundle."""
    return open_store(homes.open_home(folder / "home"), TrackingConfig())


def _fresh(session: Session, name: str) -> Path:
    folder = session.home.root / "reproductions" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def unpack(session: Session, source: Path) -> Path:
    """Unpack a bundle into a folder of this home, and point its artifact addresses there.

    Raises:
        StoreError: no bundle, or one that names files outside its own folder.
    """
    folder = _fresh(session, source.stem)
    if source.is_dir():
        shutil.copytree(source, folder, dirs_exist_ok=True, symlinks=True)
    else:
        _extract(source, folder)
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
        place = artifacts.local(record.artifact_uri)
        if place is None or not place.resolve().is_relative_to(home.root):
            raise _outside(source, record.artifact_uri)
    return folder


def _extract(source: Path, folder: Path) -> None:
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
    except (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise StoreError(
            f"{source} cannot be unpacked: {error}.", remedy="copy the bundle again from its source"
        ) from error


def _outside(source: Path, name: str) -> StoreError:
    return StoreError(
        f"{source} is refused: {name} leads out of the bundle's folder.",
        remedy="ask whoever sent it for one that `minivess reproduce RUN_ID --export` made",
    )


# --- training again -------------------------------------------------------------------------


def rerun(session: Session, folder: Path) -> dict[str, Any]:
    """Train with the restored code and settings, and compare with the run."""
    known = files.read_json(folder / RECIPE)
    recipe = Recipe(**{**known, "cells": tuple(known["cells"])})
    store = _store_of(folder)
    family = store.get(recipe.family)
    code, lost = _code(folder, recipe)
    differing = comparison.surroundings(
        family.params, store.read_text(family.run_id, "environment/frozen_deps.txt")
    )
    for line in [*(f"not restored: {line}" for line in lost), *differing[:SHOWN]]:
        session.print(f"  {line}")
    words = _settings(store, recipe, folder)
    session.print(f"Training {family.name} again at commit {recipe.commit[:8]}")
    again = _train(code, store.home, words)
    found = _judge(_store_of(folder), recipe, again)
    outcome = {
        **found, "run_id": recipe.run_id, "commit": recipe.commit, "not_restored": lost,
        "surroundings": differing, "folder": str(folder),
        "dataset_hash": family.params[names.DATASET_HASH],
    }  # fmt: skip
    files.write_json(folder / "verdict.json", outcome)
    print_verdict(session, found)
    return outcome | {"exit_code": 0 if found["verdict"] == "identical" else 1}


def print_verdict(session: Session, found: Mapping[str, Any]) -> None:
    """Print what differs, value by value, and the verdict."""
    for name in found["ingredients"]:
        session.print(f"  differs: {name}")
    for one in found["differences"][:SHOWN]:
        session.print(
            f"  {one['metric']} at step {one['step']}: {one['before']} there, {one['after']} here"
        )
    if (rest := len(found["differences"]) - SHOWN) > 0:
        session.print(f"  ... and {rest} more (--json lists all)")
    if found["missing"]:
        session.print(f"  only one of both has: {', '.join(found['missing'])}")
    session.print(f"  verdict: {found['verdict']} ({found['compared']} values compared)")


def _code(folder: Path, recipe: Recipe) -> tuple[Path | None, list[str]]:
    """The restored code, or None for what runs now; and what could not be restored."""
    code, packed, repository = folder / CODE, folder / PACKED, code_state.clone()
    shutil.rmtree(code, ignore_errors=True)
    if packed.is_file():
        code_state.check_out(packed, recipe.commit, code)
    elif repository is not None and code_state.has(repository, recipe.commit):
        code_state.check_out(repository, recipe.commit, code)
    else:
        return None, [f"commit {recipe.commit}: not in this clone, so the present code ran"]
    return code, code_state.apply(code, folder / DIFF)


def _settings(store: Store, recipe: Recipe, folder: Path) -> list[str]:
    """The command of the rerun: the settings asked for, at one point of the grid, same folds."""
    family = store.get(recipe.family)
    asked = store.read_json(recipe.family, "config/experiment_config.json")
    training = {k: v for k, v in asked.get("training", {}).items() if k not in OURS}
    training |= {
        "losses": [family.params["loss_name"]],
        "seeds": [int(family.params["seed"])],
        "splits": str(_splits(store, recipe, folder)),
        **_model(store, recipe, asked.get("training", {})),
    }
    asked = {k: v for k, v in asked.items() if k not in ("tracking", "flows", "name")}
    content = {**asked, "name": again(recipe), "training": training,
               "tracking": {"log_system_metrics": False}}  # fmt: skip
    file = folder / "settings.yaml"
    files.write_text(file, yaml.safe_dump(content))
    _plans(store, recipe)
    return ["train", str(file), "--upstream", recipe.profile, "--yes", "--json"]


def again(recipe: Recipe) -> str:
    """The experiment of the rerun, in the folder's own store."""
    return f"{recipe.experiment}-again"


def _splits(store: Store, recipe: Recipe, folder: Path) -> Path:
    """The folds as they were, or the one of a cell."""
    held = store.artifacts(recipe.family, "splits")
    path = next(name for name in held if "fold_seed" in name)
    split = Split.model_validate(store.read_json(recipe.family, path))
    wanted = {store.get(cell).tags["fold_id"] for cell in recipe.cells}
    folds = tuple(fold for fold in split.folds if str(fold.index) in wanted)
    return files.write_text(
        folder / "splits.json", split.replace(folds=folds).model_dump_json(indent=2)
    )


def _model(store: Store, recipe: Recipe, training: Mapping[str, Any]) -> dict[str, Any]:
    """The model's name, and its point on the axes where there are any."""
    name = store.get(recipe.family).params["model_name"]
    axes = training.get("axes", {})
    if not axes:
        return {"models": [name]}
    network = store.read_json(recipe.cells[0], names.INGREDIENTS_ARTIFACT)["network"]
    base = next(one for one in training.get("models", [name]) if name.startswith(one))
    return {"models": [base], "axes": {field: [network[field]] for field in axes}}


def _plans(store: Store, recipe: Recipe) -> None:
    """Give each cell its own plan, as if it had been stopped before its first step."""
    for cell in recipe.cells:
        record = store.get(cell)
        folder = store.home.cells / record.tags[names.KEY]
        shutil.rmtree(folder, ignore_errors=True)
        for artifact in (names.PLAN_ARTIFACT, names.SPEC_ARTIFACT):
            store.download(cell, artifact, folder)


def _train(code: Path | None, home: Home, words: Sequence[str]) -> dict[str, Any]:
    where = {"PYTHONPATH": f"{code / 'src'}:{code}"} if code else {}
    done = subprocess.run(
        [sys.executable, "-m", "minivess.cli.main", *words],
        cwd=code or Path.cwd(),
        env=config.child_environment(
            MINIVESS_HOME=str(home.root), MLFLOW_TRACKING_URI="", PREFECT_DISABLED="1", **where
        ),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise TrainingError(
            f"The rerun ended with exit code {done.returncode}: {done.stderr.strip()[-600:]}",
            remedy=f"fix what it names; its folder is {home.root.parent}",
        )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


# --- the verdict --------------------------------------------------------------------------


def _judge(store: Store, recipe: Recipe, made: Mapping[str, Any]) -> dict[str, Any]:
    (parent,) = made["training_run_ids"]
    children = {r.tags["fold_id"]: r for r in store.search(parent=parent, kind=names.CELL)}
    pairs = [(cell, children[store.get(cell).tags["fold_id"]].run_id) for cell in recipe.cells]
    if recipe.run_id == recipe.family:
        pairs.append((recipe.family, parent))
    verdicts = [
        comparison.compare(comparison.values(store, old), comparison.values(store, new))
        for old, new in pairs
    ]
    differences = [one for verdict in verdicts for one in verdict.differences]
    missing = sorted({name for verdict in verdicts for name in verdict.missing})
    same = all(verdict.word == "identical" for verdict in verdicts)
    return {
        "verdict": "identical" if same else "differs",
        "compared": sum(verdict.compared for verdict in verdicts),
        "differences": [one._asdict() for one in sorted(differences, key=lambda d: -d.size)],
        "missing": missing,
        "ingredients": _ingredients(store, *pairs[0]),
    }


def _ingredients(store: Store, old: str, new: str) -> list[str]:
    """The key inputs that differ."""
    before, after = (store.read_json(run, names.INGREDIENTS_ARTIFACT) for run in (old, new))
    return list(keys.differences(before, after))
