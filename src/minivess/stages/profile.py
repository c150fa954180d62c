"""Flow 1, for the data engineer: pair, check, measure, version and publish a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minivess import config as configs
from minivess import keys, names
from minivess.contracts import DatasetProfile
from minivess.data.versions.versioning import is_place
from minivess.errors import PlanError, UsageError
from minivess.grid import context
from minivess.orchestration import handoff
from minivess.orchestration.session import Session
from minivess.orchestration.stage import stage
from minivess.stages.dataset_scan import Survey, look
from minivess.stages.profile_text import markdown, say_decided, show, tell

if TYPE_CHECKING:
    from minivess.data.profiling.profile import Measured
    from minivess.data.versions.versioning import Version
    from minivess.tracking.run.run import Run

USED_BY_TRAINING = {"normalisation", "resampling"}
"""Settings of the data that decide nothing in a profile."""


def profile_data(session: Session) -> DatasetProfile:
    """Profile and version the dataset, or find that this was done already."""
    session.say(f"Profile   {session.config.dataset}")
    survey = look(session)
    show(session, survey.root, survey.originals)
    say_decided(session, survey.reviewed)
    profile = stage(
        session,
        names.PROFILE,
        survey.key,
        lambda: _profile(session, survey),
        reuse=lambda found: check_out(session, survey, found),
        follow=lambda made, first: announce(session, made) if first else None,
    )
    queue(session, survey, profile)
    session.profiles[str(profile.run_id)] = profile
    return profile


def outcome(session: Session, profile: DatasetProfile) -> dict[str, Any]:
    """Ids and figures of the profile for `--json` and Prefect."""
    return {
        "data_profile_run_id": profile.run_id,
        "dataset_hash": profile.dataset_hash,
        "n_volumes": profile.n_volumes,
        "quarantined": list(profile.quarantined),
        "reused": session.reused,
    }


def announce(session: Session, profile: DatasetProfile) -> None:
    """Send the event of a new profile, for automations of Prefect."""
    payload = {**handoff.profile_pointer(profile), "settings": configs.words(session.config)}
    resource = f"minivess.dataset.{profile.dataset}"
    session.orchestrator.emit(names.DATA_PROFILED, resource, payload)


def profile_for(session: Session, upstream: Sequence[str] = ()) -> DatasetProfile:
    """The profile given by id, else that of the data and settings as they are now."""
    if not upstream:
        return profile_data(session)
    profile = handoff.receive_profile(session, upstream)
    if profile.run_id not in session.profiles:
        require_asked(session, profile)
    return profile


def require_asked(session: Session, profile: DatasetProfile) -> None:
    """A profile given by id is of the data and of the settings that were typed with it.

    Raises:
        UsageError: it is of others.
    """
    data, made_of = (
        session.config.data,
        session.store.read_json(str(profile.run_id), names.INGREDIENTS_ARTIFACT),
    )
    asked = {
        name: value for name, value in data.counted().items()
        if name in data.model_fields_set - USED_BY_TRAINING
    }  # fmt: skip
    differing = [n for n, value in asked.items() if made_of["settings"].get(n) != value]
    here = look(session) if isinstance(data.root, Path) and data.root.is_dir() else None
    files = here.ingredients["files"] if here else {}
    if data.root and not data.name and not is_place(profile.dataset_path, data.root):
        differing += ["root"] * (sorted(files.values()) != sorted(made_of["files"].values()))
    if differing:
        raise UsageError(
            f"The profile {profile.run_id} is of {profile.dataset_path} with other settings than "
            f"those given: {', '.join(f'data.{name}' for name in differing)}.",
            remedy="leave out --upstream, so that the data are profiled as they are asked for, or "
            "leave out these settings",
        )
    changed = keys.differences(made_of["files"], files) if here else []
    if changed:
        session.say(f"  note: the folder has changed since that profile: {', '.join(changed)}")


def _profile(session: Session, survey: Survey) -> DatasetProfile:
    from minivess.tracking.run.params import data_params

    config, dataset, task = session.config, session.config.dataset, session.orchestrator.task
    note = f"Profile of {dataset}: {len(survey.pairing.cases)} volumes at {survey.place}"
    with session.run(
        names.PROFILE, dataset, survey.key, note, survey.ingredients, dataset=dataset
    ) as run:
        io: Any = {"retries": 2, "limit_s": config.data.time_limit_s}
        measured = task("measure volumes", measure, session, survey, key=survey.key, **io)
        version = task("version data", commit, session, survey, measured, **io)
        if config.data.analyzer == "monai":
            measured = task("MONAI DataAnalyzer", analyse, session, survey, measured, run)
        profile = summary(session, survey, measured, version)
        run.params(data_params(profile))
        run.dataset(profile)
        task("publish profile", store_profile, session, survey, run, profile)
        tell(session, profile)
    session.say(f"  gallery  {gallery_of(session, run.run_id)}")
    return profile.replace(run_id=run.run_id)


def measure(session: Session, survey: Survey) -> Measured:
    """Check and measure every volume; unchanged ones come from the cache."""
    from minivess.data.profiling import profile
    from minivess.data.review.apply import rejections

    with session.progress("volumes measured") as progress:
        measured = profile.profile(
            survey.pairing,
            survey.hashes,
            config=session.config.data,
            cache=session.home.profile_cache,
            accepted=survey.reviewed.accepted,
            on_volume=progress,
        )
    return replace(
        measured,
        findings=(*measured.findings, *rejections(session.config.dataset, survey.reviewed)),
        quarantined=(*measured.quarantined, *survey.reviewed.rejected),
    )


def queue(session: Session, survey: Survey, profile: DatasetProfile) -> None:
    """Put what was flagged into the review queue, and say what waits there."""
    from minivess.data.review import review

    waiting = review.enter(
        session.home,
        session.config.dataset,
        survey.originals,
        survey.hashes,
        profile.findings,
        in_force=survey.reviewed.in_force,
    )
    if waiting:
        queue = session.command("review list", "--dataset", profile.dataset)
        session.say(f"  review   {len(waiting)} volumes wait for a decision: {queue}")


def analyse(session: Session, survey: Survey, measured: Measured, run: Run) -> Measured:
    """Keep the YAML of MONAI's DataAnalyzer in the run; what it left out becomes a finding."""
    from minivess.data.pages import analyzer

    folder = session.home.reports / run.run_id
    written, findings = analyzer.analyse(measured.cases, folder, config=session.config.data)
    for path in written:
        run.file(path, "dataset")
    return replace(measured, findings=(*measured.findings, *findings))


def commit(session: Session, survey: Survey, measured: Measured) -> Version:
    """Copy the volumes that passed into the curated set and make a DVC version of it."""
    from minivess.data.versions import versioning

    return versioning.commit(
        session.home,
        session.config.dataset,
        measured.cases,
        remote=session.config.data.remote,
        place=survey.place,
        review=survey.reviewed.history,
        git=session.config.data.git_commit,
    )


def check_out(session: Session, survey: Survey, profile: DatasetProfile) -> DatasetProfile:
    """Make the curated set this version again where another one, or an edit, took its place."""
    from minivess.data.versions import versioning

    git = session.config.data.git_commit
    if not versioning.is_at(session.home, profile.dataset, profile.dataset_hash, git=git):
        session.say(f"  version  {profile.dataset_hash} is put in place again")
        commit(session, survey, measure(session, survey))
    return profile


def summary(
    session: Session, survey: Survey, measured: Measured, version: Version
) -> DatasetProfile:
    """The dataset in numbers, with the patch that each model could use on it."""
    from minivess.compute import plan
    from minivess.data.profiling import profile
    from minivess.training import grid

    config = session.config
    numbers = profile.summarise(
        measured,
        dataset=config.dataset,
        dataset_path=survey.place,
        version=version,
        label_map=config.data.labels,
    )
    loaded, safe = context.as_loaded(session, numbers), {}
    for model in grid.models(config):
        try:
            safe[model.name] = plan.safe_patch(context.network_for(model, loaded), loaded)
        except PlanError as error:
            session.say(
                f"  note: {model.name} cannot train on these volumes as they are: {error.problem}"
            )
    return numbers.replace(safe_patch_sizes=safe)


def store_profile(session: Session, survey: Survey, run: Run, profile: DatasetProfile) -> None:
    """Everything a reader of the profile run finds there."""
    from minivess.data.pages import gallery
    from minivess.data.versions import curated

    folder = session.home.reports / run.run_id
    cases = curated.cases_of(session.home.root / profile.curated, profile)
    out = [case for case in survey.originals.cases if case.case in set(profile.quarantined)]
    history = survey.reviewed.history
    page = gallery.render(
        profile, cases, gallery_of(session, run.run_id), left_out=out, history=history
    )
    run.file(page, "dataset")
    run.json(history, "dataset/review.json")
    for figure in gallery.plots(profile, folder):
        run.file(figure, "figures")
    run.json([finding.model_dump() for finding in profile.findings], "dataset/findings.json")
    run.text((session.home.root / profile.dvc_file).read_text(), names.DVC_ARTIFACT)
    run.metrics({"n_volumes": profile.n_volumes, "n_findings": len(profile.findings)}, step=0)
    run.json(profile.model_dump(mode="json"), names.PROFILE_ARTIFACT)
    rows = [
        stats.model_dump(mode="json", exclude={"percentiles", "converted"})
        for stats in profile.volumes
    ]
    session.orchestrator.table("volumes", rows, f"Volumes of {profile.dataset}")
    session.orchestrator.markdown("data-profile", markdown(profile))
    session.orchestrator.link("mlflow-run", session.page_of(run.run_id), "This profile in MLflow")


def gallery_of(session: Session, run_id: str) -> Path:
    """Where a profile run leaves its page."""
    return session.home.reports / run_id / "gallery.html"
