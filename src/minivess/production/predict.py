"""Segment files with a registered model: which one, and what became of each file."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from minivess import files, keys, names
from minivess.combination import Segmenting, segmenting
from minivess.contracts import RunRecord
from minivess.data.profiling.domain import domain_of
from minivess.errors import StoreError, UsageError, nearest
from minivess.formats.filenames import is_volume
from minivess.orchestration import handoff
from minivess.orchestration.session import Session
from minivess.stages import dataset_identity
from minivess.stages.deploy import download_model
from minivess.text import first_of, several
from minivess.tracking.store import registry
from minivess.tracking.store.registry import Registered

if TYPE_CHECKING:
    from minivess.serving.predict import Allowed, Outcome, Plan, Segmenter

SHOWN = 10
ALIASES = (names.PRODUCTION_ALIAS, names.CHAMPION_ALIAS)
"""Aliases whose version segments, in this order."""

log = logging.getLogger(__name__)


class Chosen(NamedTuple):
    """The model that segments, its training run, and why it was chosen."""

    version: Registered
    training: RunRecord
    why: str


def predict(
    session: Session,
    source: Path,
    target: Path,
    *,
    upstream: Sequence[str] = (),
    url: str | None = None,
    model: Path | None = None,
) -> dict[str, Any]:
    """Segment files; a rejected file stops no other, and makes the exit code 1.

    Args:
        source: a volume, or a folder of volumes.
        target: a mask's name or a folder.
        upstream: a run id, NAME@alias or NAME/version; default, the model of the settings.
        url: a service that is asked instead.
        model: a file of `minivess export` that is used instead; no store is opened.
    """
    from minivess.serving import client, portable
    from minivess.serving import predict as masks
    from minivess.serving.predict import Allowed

    plan = masks.plan(source, target)
    if url is not None:
        of_settings = ("root", "name", "spacing", "unit")
        refuse_choice(session, upstream, "--url asks a service", of_settings)
        served = client.model_at(url)
        session.print(f"Predict   {served['model']} at {url}")
        return segment(session, plan, served, lambda: client.asking(url), served)
    if model is not None:
        refuse_choice(session, upstream, f"--model takes {model}", ("root", "name"))
        with portable.opened(model) as (record, predictor):
            session.print(f"Predict   {record.label} of {model}")
            known = {"model": record.label, **record.lineage}
            limits = Allowed(record.domain, session.config.deployment.out_of_range)
            return segment(
                session, plan, known,
                lambda: here(session, plan, predictor, limits),
                recipe_of(session, files.sha256(model)),
            )  # fmt: skip
    if not upstream:
        dataset_identity.require(session)
    chosen = choose(session, upstream)
    session.print(f"Predict   {format_model(chosen)}")

    def load() -> Segmenter:
        return here(session, plan, predictor_of(session, chosen), allowed(session, chosen))

    return segment(session, plan, facts(chosen), load, recipe_of(session, chosen.version.run_id))


def folder_of(target: Path) -> Path:
    """The folder in which the masks of a target lie, or will lie."""
    return target.parent if is_volume(target) and not target.is_dir() else target


def measure(session: Session, masks: Sequence[str], target: Path) -> list[dict[str, Any]]:
    """Measure the vessels of masks; the table and their graphs lie in the folder of the masks."""
    from minivess.morphometry import mask_files

    folder = folder_of(target)
    rows = mask_files.measure_each([Path(mask) for mask in masks], folder, folder)
    for line in mask_files.summary(rows):
        session.print(line)
    session.print(f"  {folder / mask_files.TABLE}, with the graphs of the vessels beside the masks")
    return rows


def here(session: Session, plan: Plan, predictor: Segmenting, limits: Allowed) -> Segmenter:
    """Return what segments the files of a plan in this process; says first what memory it takes."""
    from minivess.serving import forecast
    from minivess.serving import predict as masks

    session.print(f"  {forecast.text((source for source, _ in plan.pairs), predictor)}")
    return masks.own(predictor, session.config.data, limits)


def recipe_of(session: Session, model: str) -> dict[str, Any]:
    """What decides a mask beside its file."""
    return {
        "model": model,
        "data": [session.config.data.spacing, session.config.data.unit],
        "out_of_range": session.config.deployment.out_of_range,
        "code": keys.code(keys.PREDICTED_CODE),
        "versions": keys.versions((*keys.NUMERIC_PACKAGES, "onnxruntime")),
    }


def refuse_choice(
    session: Session, upstream: Sequence[str], what: str, fields: Sequence[str]
) -> None:
    """Refuse what decides a model here, or what a service has of its own.

    Raises:
        UsageError: some of it is given.
    """
    asked = session.config
    given = [f"--upstream {one}" for one in upstream]
    given += [f"name={asked.name}"] * (asked.name is not None)
    given += [f"data.{key}" for key in fields if getattr(asked.data, key) is not None]
    if "unit" in fields and asked.deployment.out_of_range != "warn":
        given.append("deployment.out_of_range")
    if given:
        raise UsageError(
            f"{what}, which decides by itself about {', '.join(given)}.",
            remedy=f"leave it out, or leave out {what.split()[0]} to segment with a model of this "
            "home",
        )


def segment(
    session: Session, plan: Plan, model: dict[str, Any], load: Callable[[], Segmenter], recipe: Any
) -> dict[str, Any]:
    """Segment the files of a plan and print what became of each.

    A mask that the same model made of the same bytes is kept, so that a killed command resumes.
    """
    from minivess.serving import predict as masks

    for path, reason in plan.left.items():
        session.print(f"  left out  {path}: {reason}", warning="data")
    session.print(f"  segmenting {several(len(plan.pairs), 'volume')}, with table and preview")
    outcomes: list[Outcome] = []
    with session.progress("volumes segmented") as done:
        for outcome in masks.each(plan.pairs, load(), recipe):
            known = {found.code for one in outcomes for found in one.findings}
            print_outcome(session, outcome, known)
            outcomes.append(outcome)
            done(len(outcomes), len(plan.pairs))
    refused = [outcome for outcome in outcomes if outcome.mask is None]
    if refused:
        session.print(
            f"  {len(refused)} of {several(len(outcomes), 'volume')} could not be segmented: "
            + ", ".join(f"{one.source.name} ({one.findings[0].code})" for one in refused),
            warning="data",
        )
    return {
        "model": model,
        "files": [str(outcome.mask) for outcome in outcomes if outcome.mask],
        "kept": [str(outcome.mask) for outcome in outcomes if outcome.kept],
        "refused": [_as_json(one) for one in refused],
        "warnings": [_as_json(one) for one in outcomes if one.mask and one.findings],
        "left_out": {str(path): reason for path, reason in plan.left.items()},
        "exit_code": 1 if refused else 0,
    }


def print_outcome(session: Session, outcome: Outcome, known: Set[str]) -> None:
    """Print one file's mask or why it was rejected, and the remedy of each new kind of finding."""
    if outcome.mask:
        session.print(f"  {outcome.mask}{'  (made before)' if outcome.kept else ''}")
    for found in outcome.findings:
        word = "refused" if found.severity == "error" else "warning"
        log.warning("%s  %s: %s: %s", word, outcome.source, found.code, found.message)
        if found.code not in known:
            log.warning("  Try: %s", found.remedy)


def _as_json(outcome: Outcome) -> dict[str, Any]:
    fields = {"code", "message", "remedy"}
    findings = [found.model_dump(include=fields) for found in outcome.findings]
    return {"file": str(outcome.source), "findings": findings}


# --- the model ----------------------------------------------------------------------------


def choose(session: Session, upstream: Sequence[str]) -> Chosen:
    """The model of the run or alias given, else of the experiment named in the settings.

    Raises:
        UsageError: several are given, or none is and the home has several.
        StoreError: there is no such model.
    """
    if len(upstream) > 1:
        raise UsageError(
            f"{len(upstream)} upstream ids were given, and one model segments.",
            remedy="give one: --upstream ID",
        )
    given = upstream[0] if upstream else None
    version, why = (
        (registry.of_reference(session.store, given), f"given as {given}")
        if given
        else _named(session)
    )
    training = session.store.get(version.run_id)
    if upstream and session.config.name is not None:
        handoff.require_named(session, training, version.name)
    dataset, asked = training.params[names.DATASET_NAME], session.config
    if asked.data.root is not None and dataset != asked.dataset:
        raise UsageError(
            f"{version.name} version {version.version} was trained on {dataset!r}, and data.root "
            f"names {asked.dataset!r}.",
            remedy="leave out data.root, or name a model of these data",
        )
    return Chosen(version, training, why)


def _named(session: Session) -> tuple[Registered, str]:
    """The model of the experiment in the settings, or the only one of the home."""
    models = registry.models(session.store)
    able = [name for name, aliases in models.items() if aliases.keys() & set(ALIASES)]
    asked, name = session.config, session.config.experiment
    if asked.name is None and asked.data.root is None:
        if len(able) > 1:
            raise UsageError(
                f"This home holds models of {len(able)} experiments, and none is named: "
                f"{_listed(able)}.",
                remedy=f"add the override that decides, for example {_name_override(able[0])}, "
                "data.root=FOLDER, or --upstream RUN_ID",
            )
        name = next(iter(able or models), name)
    if name not in models:
        raise StoreError(
            f"There is no model of an experiment {name!r} here"
            + (f"; there are {_listed(able)}." if able else ", nor of any other."),
            remedy=_instead(session, name, able),
        )
    for alias in ALIASES:
        if alias in models[name]:
            return registry.by_version(session.store, name, models[name][alias]), alias
    raise StoreError(
        f"No version of {name} is in production or champion.",
        remedy=f"run `minivess analyse {_name_override(name)}` first, or name a training: "
        "--upstream RUN_ID",
    )


def _instead(session: Session, name: str, able: Sequence[str]) -> str:
    """A remedy with the nearest name; a name that is not near is never suggested alone."""
    if not able or session.config.data.root is not None:
        return f"run `{session.command('experiment')}` first"
    near = nearest(name, able)
    return _name_override(near) if near else "give the name of one of these, or data.root=FOLDER"


def _name_override(name: str) -> str:
    return shlex.quote(f"name={name}")


def _listed(models: Sequence[str]) -> str:
    return first_of([_name_override(name) for name in models], SHOWN)


def predictor_of(session: Session, chosen: Chosen) -> Segmenting:
    """The chosen networks as they are run: exported once, then kept with their model."""
    from minivess.serving import export, model_record

    trained = download_model(session, chosen.training)
    classes = handoff.profile_used(session, chosen.training).classes
    folder = session.home.served / "champions" / chosen.training.run_id / "exported"
    model = trained.composition
    files = model_record.network_files(model, folder)
    forwards = [
        export.kept_forward(part.network, checkpoint, file)
        for part, checkpoint, file in zip(model.parts, trained.checkpoints, files, strict=True)
    ]
    return segmenting(model, forwards, classes=classes)


def allowed(session: Session, chosen: Chosen) -> Allowed:
    """The volumes that the chosen network was trained on, and what becomes of others."""
    from minivess.serving.predict import Allowed

    domain = domain_of(handoff.profile_used(session, chosen.training))
    return Allowed(domain, session.config.deployment.out_of_range)


def facts(chosen: Chosen) -> dict[str, Any]:
    """The model, its training data and its out-of-fold Dice."""
    version, params = chosen.version, chosen.training.params
    return {
        "name": version.name,
        "version": version.version,
        "chosen": chosen.why,
        "training_run_id": version.run_id,
        "family": chosen.training.name,
        "dataset": params[names.DATASET_NAME],
        "dataset_path": params["data_dataset_path"],
        "dataset_hash": params[names.DATASET_HASH],
        "n_volumes": int(params["data_n_volumes"]),
        "out_of_fold_dice": chosen.training.metrics.get("eval_dice"),
    }


def format_model(chosen: Chosen) -> str:
    """The same as two lines of text."""
    known = facts(chosen)
    dice = known["out_of_fold_dice"]
    judged = "never scored" if dice is None else f"out-of-fold Dice {dice:.3f}"
    return (
        "{name} version {version} ({chosen}): {family}, {judged}\n"
        "  trained on {n_volumes} volumes of {dataset_path}, data {dataset_hash}"
    ).format(**known, judged=judged)
