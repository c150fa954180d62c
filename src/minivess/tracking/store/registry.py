"""Registered models: one version per run, found by alias."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from minivess import names
from minivess.contracts import AliasMove
from minivess.errors import StoreError, nearest
from minivess.tracking.store.connection import ABSENT, EXISTS, all_pages, translate_errors
from minivess.tracking.store.store import Store, quoted

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

log = logging.getLogger(__name__)

ALIASED_BY = {names.CHAMPION_ALIAS: "analyse", names.PRODUCTION_ALIAS: "deploy"}
"""The verb that sets an alias; those of families are set by `train`."""


class Registered(NamedTuple):
    """One version of a registered model."""

    name: str
    version: str
    run_id: str
    tags: dict[str, str]


def register(store: Store, *, name: str, run_id: str, note: str, tags: Mapping[str, str]) -> str:
    """Register the model of a run and return its version; an existing version is returned.

    Raises:
        StoreError: the run holds no model, or the registry rejects the name.
    """
    run_id = store.resolve(run_id)
    known = versions(store, name, run_id=run_id)
    if known:
        return known[0].version
    if renamed := _renamed_before_tags(store, name, run_id):
        return renamed.version
    if not store.artifacts(run_id, names.MODEL_ARTIFACT):
        raise StoreError(
            f"Run {run_id} holds no model to register.",
            remedy="give a FINISHED training run, or train again with training.retrain=always",
        )
    _make(store, name)
    with translate_errors(f"register the model of run {run_id} as {name!r}"):
        made = store.client.create_model_version(
            called(store, name),
            source=f"runs:/{run_id}/{names.MODEL_ARTIFACT}",
            run_id=run_id,
            tags=dict(tags),
            description=note,
        )
    return str(made.version)


def _make(store: Store, name: str) -> None:
    if called(store, name) != name:
        return
    try:
        with translate_errors(f"make the registered model {name!r}"):
            store.client.create_registered_model(
                name, tags={"project": names.PROJECT, names.GROUP: name}
            )
    except StoreError as error:
        if error.code != EXISTS:
            raise
        with translate_errors(f"read the registered model {name!r}"):
            there = store.client.get_registered_model(name).tags
        ours = there.get("project") == names.PROJECT
        if not ours or there.get(names.GROUP, name) != name:
            owner = f"is of the experiment {there[names.GROUP]!r}" if ours else "another tool made"
            raise StoreError(
                f"The store holds a registered model {name!r} that {owner}.",
                remedy="name=OTHER, a name for this experiment that no model has",
            ) from error


def called(store: Store, name: str) -> str:
    """Return the name in MLflow of an experiment's model, which may be renamed there."""
    wanted = f"tags.{names.GROUP} = {quoted(name)}"
    with translate_errors(f"find the registered model {name!r}"):
        found = {model.name for model in store.client.search_registered_models(wanted)}
    return name if name in found or not found else min(found)


def _renamed_before_tags(store: Store, name: str, run_id: str) -> Registered | None:
    """The version of a run in a model of ours that was renamed and has no tag, which it gets."""
    with translate_errors(f"find the model of run {run_id}"):
        for version in store.client.search_model_versions(f"run_id='{run_id}'"):
            tags = store.client.get_registered_model(version.name).tags
            if tags.get("project") == names.PROJECT and names.GROUP not in tags:
                log.warning("The model %r is called %r in MLflow now.", name, version.name)
                store.client.set_registered_model_tag(version.name, names.GROUP, name)
                return _plain(version)
    return None


def set_alias(store: Store, name: str, alias: str, version: str) -> Registered | None:
    """Point an alias at a version; return the previous version, if any."""
    before = aliased(store, name, alias)
    if before is None or before.version != version:
        with translate_errors(f"set the alias {alias!r} of model {name!r}"):
            store.client.set_registered_model_alias(called(store, name), alias, version)
    return before


def add_move(store: Store, name: str, move: AliasMove) -> None:
    """Store a move of `production` in the tags of a model; the alias is moved after it."""
    number = max(_moves(store, name), default=0) + 1
    with translate_errors(f"store the history of model {name!r}"):
        store.client.set_registered_model_tag(
            name, f"{names.PRODUCTION_MOVE}{number:04d}", move.model_dump_json()
        )


def history(store: Store, name: str) -> list[AliasMove]:
    """Return the moves of `production`, the oldest first.

    A move that was stored by a process that died before it moved the alias is left out: after it
    the alias is where it was before.
    """
    moves = [move for _, move in sorted(_moves(store, name).items())]
    now = aliased(store, name, names.PRODUCTION_ALIAS)
    begins = [*(move.before for move in moves), now and now.version]
    return [move for move, then in zip(moves, begins[1:], strict=True) if then != move.before]


def _moves(store: Store, name: str) -> dict[int, AliasMove]:
    with translate_errors(f"read the history of model {name!r}"):
        tags = store.client.get_registered_model(name).tags
    return {
        int(key.removeprefix(names.PRODUCTION_MOVE)): AliasMove.model_validate_json(value)
        for key, value in tags.items()
        if key.startswith(names.PRODUCTION_MOVE)
    }


def aliased(store: Store, name: str, alias: str) -> Registered | None:
    """Return the version that an alias points at, or None."""
    now = called(store, name)
    return _found(f"{now}@{alias}", lambda: store.client.get_model_version_by_alias(now, alias))


def by_alias(store: Store, name: str, alias: str) -> Registered:
    """Return the version that an alias points at.

    Raises:
        StoreError: there is no such model or alias.
    """
    verb, found = ALIASED_BY.get(alias), aliased(store, name, alias)
    settings = shlex.quote(f"name={name}")
    known = models(store) if found is None else {}
    if name not in known and (near := nearest(name, known)):
        remedy = f"did you mean {shlex.quote(f'{near}@{alias}')}?"
    elif verb:
        remedy = f"run `minivess {verb} {settings}`, which sets this alias"
    else:
        remedy = "run `minivess train` with its settings, which sets the aliases of families"
    return _required(f"{name}@{alias}", found, remedy)


def by_version(store: Store, name: str, version: str) -> Registered:
    """Return one version by its number.

    Raises:
        StoreError: there is no such model or version.
    """
    now = called(store, name)
    return _required(
        f"{name}/{version}",
        _found(f"{now}/{version}", lambda: store.client.get_model_version(now, version)),
        "give a version that MLflow's page shows (`minivess ui`), or an alias as NAME@champion",
    )


def _found(reference: str, look: Callable[[], ModelVersion]) -> Registered | None:
    try:
        with translate_errors(f"find the registered model {reference}"):
            return _plain(look())
    except StoreError as error:
        if error.code not in ABSENT:
            raise
        return None


def _required(reference: str, found: Registered | None, remedy: str) -> Registered:
    if found is None:
        raise StoreError(f"There is no registered model {reference}.", remedy=remedy)
    return found


def versions(store: Store, name: str, *, run_id: str | None = None) -> list[Registered]:
    """Return all versions of a model, newest first; optionally only those of one run."""
    wanted = f"name={quoted(called(store, name))}" + (f" and run_id='{run_id}'" if run_id else "")
    with translate_errors(f"list the versions of model {name!r}"):
        found = list(all_pages(store.client.search_model_versions, filter_string=wanted))
    return sorted((_plain(one) for one in found), key=lambda one: -int(one.version))


def models(store: Store) -> dict[str, dict[str, str]]:
    """Return our registered models, by experiment: name -> alias -> version."""
    ours = f"tags.project = '{names.PROJECT}'"
    with translate_errors("list the registered models"):
        return {
            model.tags.get(names.GROUP, model.name): {
                alias: str(version) for alias, version in model.aliases.items()
            }
            for model in all_pages(store.client.search_registered_models, filter_string=ours)
        }


def of_run(store: Store, run_id: str) -> Registered:
    """Return the version made from a run; of several, one of our own models.

    Raises:
        StoreError: its model is not registered.
    """
    with translate_errors(f"find the model of run {run_id}"):
        found = store.client.search_model_versions(f"run_id='{run_id}'")
    if not found:
        raise StoreError(
            f"The model of run {run_id} is not registered.",
            remedy="run `minivess train` with its settings; what is trained is registered again",
        )
    own = {called(store, name) for name in models(store)} if len(found) > 1 else ()
    return _plain(max(found, key=lambda version: version.name in own))


def of_reference(store: Store, ref: str) -> Registered:
    """Return the model of a run id, NAME@alias or NAME/version.

    Raises:
        StoreError: there is no such run or model, or the run holds none.
    """
    name, at, alias = ref.removeprefix("models:/").partition("@")
    if at:
        return by_alias(store, name, alias)
    name, slash, number = name.rpartition("/")
    if slash and number.isdigit():
        return by_version(store, name, number)
    record = store.get(ref)
    kind = record.tags.get(names.KIND)
    if kind in (names.DEPLOYMENT, names.ANALYSIS):
        return of_run(store, record.param(names.UPSTREAM_TRAINING))
    if kind in (names.FAMILY, names.REFIT, names.ENSEMBLE):
        return of_run(store, record.run_id)
    raise StoreError(
        f"Run {ref} is of kind {kind!r} and holds no model.",
        remedy="give the run of a training, analysis or deployment, or NAME@production",
    )


def _plain(version: ModelVersion) -> Registered:
    return Registered(version.name, str(version.version), version.run_id or "", dict(version.tags))
