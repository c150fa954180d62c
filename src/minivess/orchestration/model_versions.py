"""Register model versions and move the aliases of the current ones."""

from __future__ import annotations

import getpass
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal

from minivess import names
from minivess.config import changed
from minivess.contracts import (
    AliasMove,
    AnalysisResult,
    Champion,
    DeploymentResult,
    FamilyRun,
    TrainingResult,
)
from minivess.errors import StoreError
from minivess.orchestration.handoff import receive_training
from minivess.orchestration.session import Session
from minivess.text import several, slug
from minivess.tracking.store import registry
from minivess.tracking.store.registry import Registered

RACES = 5
"""How often a move is stored anew because another machine stored one between its two steps."""


def register_families(session: Session, result: TrainingResult) -> None:
    """Register each family's model; aliases are the family's name and `best_<loss>`."""
    best = best_of_each_loss(result.families)
    numbers = version_numbers(session, result)
    for family in result.families:
        aliases = [family.run_name] + [f"best_{family.loss}"] * (best[family.loss] is family)
        for alias in aliases:
            version = numbers[family.run_name]
            registry.set_alias(session.store, result.experiment, slug(alias), version)


def restore_aliases(session: Session, experiment: str) -> None:
    """Set the aliases of an experiment's families again where one went with a deleted version."""
    asked = changed(session.config, {"name": experiment})
    current = receive_training(session.with_config(asked))
    there = registry.models(session.store).get(experiment, {})
    wanted = {f.run_name for f in current.families} | {f"best_{f.loss}" for f in current.families}
    if not {slug(alias) for alias in wanted} <= there.keys():
        register_families(session, current)


def version_numbers(session: Session, result: TrainingResult) -> dict[str, str]:
    """Family name -> version of its model, registered if it was not yet."""
    return {
        family.run_name: version_of(session, result.experiment, family.run_id)
        for family in result.families
    }


def version_of(
    session: Session, name: str, run_id: str, tags: Mapping[str, str] | None = None
) -> str:
    """Version of the model `name` that a training run is, registered if it was not yet."""
    record = session.store.get(run_id)
    own = {"family": record.name, names.DATASET_HASH: record.param(names.DATASET_HASH)}
    note = record.tags.get(names.NOTE, record.name)
    return registry.register(session.store, name=name, run_id=run_id, note=note, tags=tags or own)


def best_of_each_loss(runs: Sequence[FamilyRun]) -> dict[str, FamilyRun]:
    """Loss -> family with the highest primary metric; one without that metric comes last."""
    ranked = sorted(runs, key=lambda run: run.metrics.get(f"eval_{names.PRIMARY}", -1.0))
    return {run.loss: run for run in ranked}


def register_refit(session: Session, analysis: AnalysisResult, run_id: str) -> None:
    """Register a refit model under the alias `refit`; the alias `champion` stays."""
    name = str(analysis.champion.model_name)
    tags = {"refit_of": analysis.champion.family, "scored": "false"}
    version = version_of(session, name, run_id, tags)
    registry.set_alias(session.store, name, names.REFIT_ALIAS, version)


def with_version(session: Session, analysis: AnalysisResult) -> AnalysisResult:
    """The analysis with the version that its champion's run has in the registry now."""
    champion, name = analysis.champion, analysis.experiment
    version = version_of(session, name, champion.run_id)
    return analysis.replace(champion=champion.replace(model_name=name, model_version=version))


def champion_tags(champion: Champion) -> dict[str, str]:
    """`champion_*` tags of the analysis run and of the winning training run."""
    return {
        "champion_family": champion.family,
        "champion_run_id": champion.run_id,
        "champion_metric": champion.metric,
        "champion_value": f"{champion.value:.6g}",
        "champion_reason": champion.reason,
    }


def tag_champion(session: Session, result: AnalysisResult) -> None:
    """Tag the winning training run and move the alias `champion` to its model version."""
    champion = result.champion
    tags = champion_tags(champion) | {"champion_analysis_run_id": str(result.run_id)}
    if not tags.items() <= session.store.get(champion.run_id).tags.items():
        session.store.set_tags(champion.run_id, tags)
    why = f"chosen among {several(len(result.families), 'family')}"
    name, version = str(champion.model_name), str(champion.model_version)
    move_alias(session, name, names.CHAMPION_ALIAS, version, why)


def promote(
    session: Session,
    result: DeploymentResult,
    *,
    kind: Literal["deploy", "promote", "rollback"] = "deploy",
    who: str | None = None,
    why: str | None = None,
) -> None:
    """Move the alias `production` to the version that passed every check of its deployment.

    The move is stored before it is made, and again if another machine's came between. A version
    that was rolled back is not deployed again by the way: that takes `promote`.
    """
    name, version, alias = result.model_name, result.model_version, names.PRODUCTION_ALIAS
    before = registry.aliased(session.store, name, alias)
    if before is not None and before.version == version:
        return
    past = registry.history(session.store, name)
    last = past[-1] if past else None
    if kind == "deploy" and last and (last.kind, last.before) == ("rollback", version):
        session.print(
            f"  version {last.version} stays `{alias}`: {version} was rolled back on "
            f"{last.at[:10]} by {last.who} ({last.why}); then: "
            + session.command("promote", f"{name}/{version}", "--why '...'")
        )
        return
    reason = why or f"deployed by run {result.run_id}"
    move = AliasMove(
        version=version,
        before=before and before.version,
        kind=kind,
        who=who or getpass.getuser(),
        why=reason,
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        deployment_run_id=str(result.run_id),
        analysis_run_id=result.analysis_run_id,
    )
    for _ in range(RACES):
        registry.add_move(session.store, name, move)
        if move_alias(session, name, alias, version, reason):
            session.print(f"  {name} version {version} is now `{alias}`")
        stored = registry.history(session.store, name)[-1:] == [move]
        now = registry.aliased(session.store, name, alias)
        if stored or now is None or now.version != version:
            return  # the last one, or another machine's follows, which is stored as well
    raise StoreError(
        f"Other commands move `{alias}` of {name} at the same time.",
        remedy="the same command again, once they have ended",
    )


def restore_production(session: Session, result: DeploymentResult) -> None:
    """Finish a deployment whose process died before the alias moved; a later choice stays."""
    past = registry.history(session.store, result.model_name)
    served = registry.aliased(session.store, result.model_name, names.PRODUCTION_ALIAS)
    done = {move.deployment_run_id for move in past}
    if served is None or result.run_id not in done:
        promote(session, result)


def move_alias(session: Session, name: str, alias: str, version: str, why: str) -> bool:
    """Point an alias at a version and print which one it leaves; True for its first version."""
    before = registry.set_alias(session.store, name, alias, version)
    if before is not None and before.version != version:
        after = registry.by_version(session.store, name, version)
        session.print(
            f"  `{alias}` of {name} moves: {_with_figure(session, before)} -> "
            f"{_with_figure(session, after)}, {why}"
        )
    return before is None


def _with_figure(session: Session, version: Registered) -> str:
    """A version with the metric it was chosen by: version 2 (dynunet_dice_ce, dice 0.812)."""
    try:
        record = session.store.get(version.run_id)
    except StoreError:
        return f"version {version.version} (its run {version.run_id} is gone)"
    metric, value = (record.tags.get(f"champion_{part}") for part in ("metric", "value"))
    if metric is None or value is None:
        metric, value = names.PRIMARY, str(record.metrics.get(f"eval_{names.PRIMARY}", "unknown"))
    digits = value if value == "unknown" else f"{float(value):.3f}"
    return f"version {version.version} ({record.name}, {metric} {digits})"
