"""Train a run again from MLflow and the DVC remote alone, or from a bundle, and compare."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from minivess import config, files, keys, names
from minivess.contracts import Split
from minivess.errors import TrainingError, UsageError
from minivess.home import Home
from minivess.orchestration.session import Session
from minivess.reproduction import bundle, code_state, comparison
from minivess.reproduction.bundle import Recipe
from minivess.tracking.store.store import Store

CODE = "code"
# The rerun gives folds and one point of the grid itself; where runs are kept is this folder.
OURS = ("models", "losses", "seeds", "axes", "folds", "splits", "stratify", "test_fraction",
        "retrain", "refit")  # fmt: skip
SHOWN = 10


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
        folder = bundle.unpack(session, source.resolve())
    elif trust:
        raise UsageError(
            f"--trust is for a bundle, and {what} is no file.",
            remedy=f"minivess reproduce {what}",
        )
    else:
        run_id = session.store.get(what).run_id
        folder = bundle.fresh_folder(session, run_id)
        bundle.gather(session.store, run_id, folder)
    return rerun(session, folder)


# --- training again -------------------------------------------------------------------------


def rerun(session: Session, folder: Path) -> dict[str, Any]:
    """Train with the restored code and settings, and compare with the run."""
    known = files.read_json(folder / bundle.RECIPE)
    recipe = Recipe(**{**known, "cells": tuple(known["cells"])})
    store = bundle.store_of(folder)
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
    found = _judge(bundle.store_of(folder), recipe, again)
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
    code, packed, repository = folder / CODE, folder / bundle.PACKED, code_state.clone()
    shutil.rmtree(code, ignore_errors=True)
    if packed.is_file():
        code_state.check_out(packed, recipe.commit, code)
    elif repository is not None and code_state.has(repository, recipe.commit):
        code_state.check_out(repository, recipe.commit, code)
    else:
        return None, [f"commit {recipe.commit}: not in this clone, so the present code ran"]
    return code, code_state.apply(code, folder / bundle.DIFF)


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
