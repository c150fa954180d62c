"""Add params that older runs lack, derived from their own tags and files.

Status and end time are kept, running runs are left alone, and an existing param is never changed.
What no file of the run holds, such as system metrics, is not added.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection
from fnmatch import filter as matching
from typing import Any, NamedTuple

import yaml

from minivess import names
from minivess.contracts import (
    ComputePlan,
    DatasetProfile,
    Fold,
    Loss,
    Network,
    RunRecord,
    Split,
)
from minivess.errors import StoreError
from minivess.tracking.run import params
from minivess.tracking.run.encoding import param_text, short_param
from minivess.tracking.run.environment import LIBRARIES, NOT_INSTALLED
from minivess.tracking.run.params import GRID, RESOLVED
from minivess.tracking.run.run import attach_run
from minivess.tracking.store import sql_reader
from minivess.tracking.store.run_files import artifact_names
from minivess.tracking.store.store import Store

NOTE = "sys_backfill_note"
COMMIT = re.compile(r"[0-9a-f]{40}")
TRAINED = (names.FAMILY, names.CELL)
BARE_TAGS = ("model_family", "model_name", "fold_ids")
log = logging.getLogger(__name__)
Values = dict[str, Any]


class Addition(NamedTuple):
    """Params that one run would get, and params that differ from its files."""

    run_id: str
    name: str
    params: Values
    differing: tuple[str, ...]


def look(store: Store, run_ids: Collection[str] = ()) -> list[Addition]:
    """Return what could be added to every ended run, or to those given; changes nothing."""
    records = [store.get(run_id) for run_id in run_ids] or sql_reader.records(store)
    found = [_addition(store, record) for record in records if record.status != "RUNNING"]
    return [one for one in found if one.params or one.differing]


def apply(store: Store, additions: Collection[Addition]) -> None:
    """Write the params; a second call writes nothing."""
    for one in additions:
        attach_run(store, one.run_id).params(one.params)


def _addition(store: Store, record: RunRecord) -> Addition:
    source = Source(store, record, set(artifact_names(store, record)))
    found: Values = {}
    differing = []
    for derive in SOURCES:
        try:
            values = derive(source)
        except (StoreError, ValueError, KeyError, TypeError, AttributeError) as error:
            # A damaged file, or one of another release, is not used; the run stays as it is.
            log.warning("%s of run %s is not used: %s", derive.__name__, record.run_id, error)
            continue
        for name, value in values.items():
            had = record.params.get(name)
            if had is None:
                found.setdefault(name, value)
            elif had not in (short_param(name, value), param_text(value)):
                other = param_text(value)[:80]
                differing.append(f"{name} is {had!r}, {derive.__name__} says {other!r}")
    if found and NOTE not in record.params:
        found[NOTE] = f"{len(found)} params added afterwards from the run's own tags and files"
    return Addition(record.run_id, record.name, found, tuple(differing))


# --- sources within a run -----------------------------------------------------------------


class Source(NamedTuple):
    """A run and the names of its artifacts."""

    store: Store
    record: RunRecord
    artifacts: set[str]

    def json(self, pattern: str) -> Any:
        """Read the first JSON artifact that matches, or return None."""
        found = matching(sorted(self.artifacts), pattern)
        return self.store.read_json(self.record.run_id, found[0]) if found else None


def tags(source: Source) -> Values:
    """Values that were stored in tags only."""
    known = source.record.tags
    found = {name: known[name] for name in BARE_TAGS if name in known}
    if "loss_function" in known:
        found["loss_name"] = known["loss_function"]
    commit = known.get("git_commit") or known.get("mlflow.source.git.commit", "")
    if COMMIT.fullmatch(commit):
        found |= {"sys_git_commit": commit, "sys_git_commit_short": commit[:7]}
    return found


def frozen_dependencies(source: Source) -> Values:
    """Versions of libraries from the list of installed packages."""
    path = "environment/frozen_deps.txt"
    if path not in source.artifacts:
        return {}
    lines = source.store.read_text(source.record.run_id, path).splitlines()
    versions = dict(line.strip().lower().split("==", 1) for line in lines if "==" in line)
    return {f"sys_{name}_version": versions.get(name, NOT_INSTALLED) for name in LIBRARIES}


# Values before these settings existed.
EARLIER = {"judged_epoch": "best", "eval_ci_method": "percentile"}


def resolved_config(source: Source) -> Values:
    """Settings of training and evaluation that had no param; `auto` is left out."""
    path = "config/resolved_config.yaml"
    if path not in source.artifacts or source.record.tags.get(names.KIND) not in TRAINED:
        return {}
    content = yaml.safe_load(source.store.read_text(source.record.run_id, path))
    training = {k: v for k, v in content["training"].items() if k not in (*GRID, *RESOLVED)}
    known = {name: value for name, value in training.items() if value != "auto"}
    known |= {f"eval_{name}": value for name, value in content["evaluation"].items()}
    return EARLIER | known


def network(source: Source) -> Values:
    """`arch_*` and, of a cell, loss and seed, from its specification or the model's settings."""
    own = f"{names.MODEL_ARTIFACT}/*model_config.json"
    spec = source.json(names.SPEC_ARTIFACT) or source.json(own)
    if spec is None:
        return {}
    found = params.arch_params(Network.model_validate(spec["network"]))
    if "loss" in spec:
        found |= params.loss_params(Loss.model_validate(spec["loss"])) | {"seed": spec["seed"]}
    return found


def compute_plan(source: Source) -> Values:
    """Values that the plan resolved: patch, batch and others."""
    content = source.json(names.PLAN_ARTIFACT)
    if content is None:
        return {}
    plan = ComputePlan.model_validate(content)
    return params.plan_params(plan) | {"arch_divisor": plan.divisor}


def cell_result(source: Source) -> Values:
    """Training time and number of parameters of a cell."""
    content = source.json(names.RESULT_ARTIFACT)
    if content is None:
        return {}
    return {
        "training_time_seconds": round(content["training_time_seconds"], 3),
        "trainable_parameters": content["trainable_parameters"],
    }


def dataset_profile(source: Source) -> Values:
    """The dataset, from the profile stored with the run."""
    profile = _profile(source)
    return params.data_params(profile) if profile else {}


def _profile(source: Source) -> DatasetProfile | None:
    content = source.json(names.PROFILE_ARTIFACT)
    return DatasetProfile.model_validate(content) if content else None


def split_file(source: Source) -> Values:
    """Training and validation volumes: of one fold in a child, of all folds in a parent."""
    content = source.json("splits/*fold*seed*.json") or source.json("splits/splits*.json")
    if content is None:
        return {}
    ours, known = isinstance(content, dict), source.record.params
    split = Split.model_validate(content) if ours else _folds(content)
    fold_id = source.record.tags.get("fold_id", "")
    mine = [fold for fold in split.folds if str(fold.index) == fold_id]
    found = params.split_params(split, mine[0] if mine else None, _covering(source, split))
    # In older runs these are hashes of names, which is no error.
    found = {k: v for k, v in found.items() if not (k.endswith("_hash") and k in known)}
    # A plain list of folds has no seed and no groups.
    return found if ours else {k: v for k, v in found.items() if k.endswith(("_ids", "_volumes"))}


def _covering(source: Source, split: Split) -> DatasetProfile | None:
    """The run's profile, if it covers all volumes of a split."""
    profile = _profile(source)
    known = {volume.case for volume in profile.volumes} if profile else set()
    named = {case for fold in split.folds for case in (*fold.train, *fold.val)} | {*split.test}
    return profile if named <= known else None


def _folds(content: Any) -> Split:
    """A list of {"train": [], "val": []}, as nnU-Net and older releases write it."""
    folds = [
        Fold(index=index, train=tuple(part["train"]), val=tuple(part["val"]))
        for index, part in enumerate(content)
    ]
    return Split(seed=0, grouped=False, folds=tuple(folds))


SOURCES: tuple[Callable[[Source], Values], ...] = (
    tags, frozen_dependencies, resolved_config, network, compute_plan, cell_result,
    dataset_profile, split_file,
)  # fmt: skip
