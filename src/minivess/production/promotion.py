"""Move `production` to a version by hand, back to an earlier one, and compare two versions."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from minivess import config as configs
from minivess import names
from minivess.combination import Segmenting
from minivess.contracts import IGNORED, AnalysisResult, Case, DeploymentResult, LabelMap
from minivess.errors import StoreError, UsageError
from minivess.formats.decode import Array
from minivess.grid import context
from minivess.orchestration import handoff, model_versions
from minivess.orchestration.results import read
from minivess.orchestration.session import Session
from minivess.production import predict as predicts
from minivess.production.predict import Chosen
from minivess.serving import model_record, package
from minivess.stages import deploy as deploys
from minivess.text import slug
from minivess.tracking.store import registry


class Pair(NamedTuple):
    """How two versions segment one volume; Dice is that of the foreground against its label."""

    case: str
    agreement: float
    dice: tuple[float | None, float | None]
    seconds: tuple[float, float]


# --- moving -------------------------------------------------------------------------------


def promote(session: Session, model: str, *, who: str | None, why: str | None) -> dict[str, Any]:
    """Prove a version, show how it differs from the one served, and move `production` to it.

    Args:
        model: `NAME/version` or `NAME@alias`.
    """
    reason = required(why, f"minivess promote {model}")
    chosen = predicts.choose(session, [model])
    session = of_model(session, chosen)
    session.print(f"Promote   {predicts.format_model(chosen)}")
    result = proved(session, chosen)
    served = registry.aliased(session.store, chosen.version.name, names.PRODUCTION_ALIAS)
    if served is not None and served.version == chosen.version.version:
        session.print(f"  version {served.version} is in production already")
    elif served is not None:
        show_difference(session, f"{served.name}/{served.version}", chosen)
    model_versions.promote(session, result, kind="promote", who=who, why=reason)
    return deploys.outcome(session, result)


def rollback(
    session: Session, version: str | None = None, *, who: str | None, why: str | None
) -> dict[str, Any]:
    """Prove an earlier version once more and move `production` back to it.

    Args:
        version: default, the one that was in production before.
    """
    reason = required(why, "minivess rollback")
    served = registry.by_alias(session.store, name_of(session), names.PRODUCTION_ALIAS)
    earlier = version or version_before(session, served.name, served.version)
    if earlier == served.version:
        raise UsageError(
            f"Version {earlier} of {served.name} is in production already.",
            remedy="minivess promote, which shows the versions that were",
        )
    chosen = predicts.choose(session, [f"{served.name}/{earlier}"])
    session = of_model(session, chosen)
    session.print(f"Rollback  {predicts.format_model(chosen)}")
    result = proved(session, chosen)
    model_versions.promote(session, result, kind="rollback", who=who, why=reason)
    return deploys.outcome(session, result)


def history(session: Session) -> dict[str, Any]:
    """Print which versions were in production, since when, and why."""
    name = name_of(session)
    moves = registry.history(session.store, name)
    for move in moves:
        session.print(
            f"  {move.at[:16]}  {move.kind:<8}  version {move.version}  by {move.who}: {move.why}"
        )
    if not moves:
        session.print(f"  no move of `{names.PRODUCTION_ALIAS}` of {name} is stored")
    return {"model": name, "history": [move.model_dump() for move in moves]}


def required(why: str | None, command: str) -> str:
    """Require a reason, which the history shows.

    Raises:
        UsageError: there is none.
    """
    if not (why or "").strip():
        raise UsageError(
            "A move of `production` needs a reason.", remedy=f"{command} --why 'what it is for'"
        )
    return str(why).strip()


def name_of(session: Session) -> str:
    """The registered model of the settings, or the only one of the home."""
    return predicts.choose(session, []).version.name


def of_model(session: Session, chosen: Chosen) -> Session:
    """The session with the experiment and the data of a model."""
    dataset = chosen.training.param(names.DATASET_NAME)
    changes = {"name": chosen.version.name, "data.name": dataset}
    return session.with_config(configs.changed(session.config, changes))


def version_before(session: Session, name: str, version: str) -> str:
    """The version that was in production before this one.

    Raises:
        StoreError: the history has none.
    """
    for move in reversed(registry.history(session.store, name)):
        if move.version == version and move.before is not None and move.kind != "rollback":
            return move.before
    raise StoreError(
        f"The history of {name} has no version before {version}.",
        remedy=f"minivess rollback VERSION name={name}, one that MLflow's page shows",
    )


# --- proving ------------------------------------------------------------------------------


def proved(session: Session, chosen: Chosen) -> DeploymentResult:
    """The deployment of a version: its service is tried once more, or made and proved now."""
    result = deployment_of(session, chosen)
    analysis = analysis_with(session, chosen, result)
    if result is None:
        return deploys.make(session, analysis)
    model = deploys.fetch(session, analysis, chosen.training)
    folder = session.home.served / str(result.run_id)
    held = session.store.download(str(result.run_id), names.EXPORT_ARTIFACT, folder)
    onnx = model_record.network_files(model.trained.composition, held)
    name, version = slug(chosen.version.name), chosen.version.version
    if package.built(session.home.served, name, version) is None:
        deploys.build(session, model, onnx, result.engine)
    smoke = deploys.smoke_test(session, model, onnx, result.bento_tag)
    session.print(
        f"  service {result.bento_tag} answered {smoke.case} in {smoke.seconds:.1f} s with the "
        "mask expected"
    )
    return result


def deployment_of(session: Session, chosen: Chosen) -> DeploymentResult | None:
    """The newest finished deployment of a version."""
    found = session.store.search(
        experiment=names.DEPLOYMENT_EXPERIMENT, kind=names.DEPLOYMENT, status="FINISHED"
    )
    for record in found:
        if record.params.get(names.UPSTREAM_TRAINING) == chosen.version.run_id:
            result = read(session, record, DeploymentResult)
            if (result.model_name, result.model_version) == chosen.version[:2]:
                return result.replace(run_id=record.run_id)
    return None


def analysis_with(
    session: Session, chosen: Chosen, result: DeploymentResult | None
) -> AnalysisResult:
    """The analysis of a deployment, else the latest, with a version in place of its champion."""
    upstream = [result.analysis_run_id] if result else ()
    analysis = handoff.receive_analysis(session, upstream)
    champion = analysis.champion.replace(
        family=chosen.training.name,
        run_id=chosen.version.run_id,
        model_name=chosen.version.name,
        model_version=chosen.version.version,
    )
    # How often the champion was chosen says nothing about another version.
    same = champion.run_id == analysis.champion.run_id
    return analysis.replace(champion=champion, selection=analysis.selection if same else None)


# --- comparing ----------------------------------------------------------------------------


def compare(session: Session, old: str, new: str) -> dict[str, Any]:
    """Segment the same volumes with two versions, and print how the masks differ.

    Args:
        old, new: `NAME/version` or `NAME@alias`.
    """
    chosen = predicts.choose(session, [new])
    session = of_model(session, chosen)
    return show_difference(session, old, chosen)


def show_difference(session: Session, old: str, new: Chosen) -> dict[str, Any]:
    """Print how a version segments volumes unlike another one."""
    before = predicts.choose(session, [old])
    profile = handoff.profile_used(session, new.training)
    n = session.config.deployment.parity_volumes
    cases = deploys.spread(context.restore(session, profile).values(), profile, n)
    predictors = [predicts.predictor_of(session, one) for one in (before, new)]
    pairs = [_difference(case, profile.label_map, predictors[0], predictors[1]) for case in cases]
    names_ = [f"version {one.version.version}" for one in (before, new)]
    session.print(f"Compare   {names_[0]} and {names_[1]} of {new.version.name}")
    for pair in pairs:
        dice = " -> ".join("-" if value is None else f"{value:.3f}" for value in pair.dice)
        session.print(
            f"  {pair.case}: masks agree on {pair.agreement:.4%}, Dice {dice}, "
            f"{pair.seconds[0]:.1f} -> {pair.seconds[1]:.1f} s"
        )
    session.print(
        "  Either version may have been trained on these volumes: the figures compare versions; "
        "quality is the out-of-fold Dice."
    )
    return {"old": names_[0], "new": names_[1], "volumes": [pair._asdict() for pair in pairs]}


def _difference(case: Case, label_map: LabelMap, old: Segmenting, new: Segmenting) -> Pair:
    from minivess.formats import volume
    from minivess.serving import predict

    image = volume.read_volume(case.image)
    label = None if case.label is None else volume.read_label(case.label, label_map)
    masks, seconds = [], []
    for predictor in (old, new):
        begun = time.perf_counter()
        masks.append(predict.segment(image, predictor))
        seconds.append(time.perf_counter() - begun)
    dice = [None if label is None else _dice(mask, label) for mask in masks]
    return Pair(
        case.case, float((masks[0] == masks[1]).mean()), (dice[0], dice[1]),
        (seconds[0], seconds[1]),
    )  # fmt: skip


def _dice(mask: Array, label: Array) -> float:
    """Dice of the foreground where the label is annotated."""
    found, true = (array[label != IGNORED] != 0 for array in (mask, label))
    total = int(found.sum()) + int(true.sum())
    return 2 * int((found & true).sum()) / total if total else 1.0
