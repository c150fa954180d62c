"""Flow 1, for the data engineer: pair, check, measure, version and publish a dataset."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minivess import config as configs
from minivess import keys, names
from minivess.compute import plan
from minivess.contracts import DatasetProfile
from minivess.data.versions import curated, versioning
from minivess.data.versions.versioning import Version, is_place
from minivess.errors import PlanError, UsageError
from minivess.grid import context
from minivess.orchestration import handoff, publication
from minivess.orchestration.session import Session
from minivess.orchestration.stage import stage
from minivess.review import queue
from minivess.review.apply import rejections
from minivess.stages.dataset_scan import DatasetScan, scan_dataset
from minivess.stages.profile_text import (
    decision_lines,
    markdown,
    pairing_lines,
    summary_lines,
    warning_lines,
)
from minivess.text import several
from minivess.tracking.run.params import data_params
from minivess.training import grid

if TYPE_CHECKING:
    from minivess.data.profiling.profile import Measured
    from minivess.tracking.run.run import Run

USED_BY_TRAINING = {"normalisation", "resampling"}
"""Settings of the data that decide nothing in a profile."""


def profile_data(session: Session) -> DatasetProfile:
    """Profile and version the dataset, unless that was done."""
    session.print(f"Profile   {session.config.dataset}")
    scan = scan_dataset(session)
    for line in (*pairing_lines(scan.root, scan.originals), *decision_lines(scan.reviewed)):
        session.print(line)
    profile = stage(
        session,
        names.PROFILE,
        scan.key,
        lambda: _profile(session, scan),
        reuse=lambda found: check_out(session, scan, found),
        follow=lambda made, first: announce(session, made) if first else None,
    )
    queue_findings(session, scan, profile)
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
    pointer = publication.pointer_to(profile)
    payload = {**pointer.holds, "settings": configs.overrides(session.config)}
    resource = f"minivess.dataset.{profile.dataset}"
    session.orchestrator.emit(names.DATA_PROFILED, resource, payload)


def profile_for(session: Session, upstream: Sequence[str] = ()) -> DatasetProfile:
    """The profile given by id, else a profile of the data and settings as they are now."""
    if not upstream:
        return profile_data(session)
    profile = handoff.receive_profile(session, upstream)
    if profile.run_id not in session.profiles:
        require_asked(session, profile)
    return profile


def require_asked(session: Session, profile: DatasetProfile) -> None:
    """Check that a profile given by id has the data and the settings typed beside it.

    Raises:
        UsageError: it has others.
    """
    data = session.config.data
    made_of = session.store.read_json(str(profile.run_id), names.INGREDIENTS_ARTIFACT)
    asked = {
        name: value for name, value in data.key_fields().items()
        if name in data.model_fields_set - USED_BY_TRAINING
    }  # fmt: skip
    differing = [n for n, value in asked.items() if made_of["settings"].get(n) != value]
    is_folder = isinstance(data.root, Path) and data.root.is_dir()
    files = scan_dataset(session).inputs["files"] if is_folder else {}
    if data.root and not data.name and not is_place(profile.dataset_path, data.root):
        differing += ["root"] * (sorted(files.values()) != sorted(made_of["files"].values()))
    if differing:
        raise UsageError(
            f"The profile {profile.run_id} is of {profile.dataset_path} with other settings than "
            f"those given: {', '.join(f'data.{name}' for name in differing)}.",
            remedy="leave out --upstream, so that the data are profiled as they are asked for, or "
            "leave out these settings",
        )
    changed = keys.differences(made_of["files"], files) if is_folder else []
    if changed:
        session.print(
            f"  note: the folder has changed since that profile: {', '.join(changed)}",
            warning="data",
        )


def _profile(session: Session, scan: DatasetScan) -> DatasetProfile:
    config, dataset, task = session.config, session.config.dataset, session.orchestrator.task
    note = f"Profile of {dataset}: {several(len(scan.pairing.cases), 'volume')} at {scan.place}"
    with session.run(names.PROFILE, dataset, scan.key, note, scan.inputs, dataset=dataset) as run:
        io: Any = {"retries": 2, "limit_s": config.data.time_limit_s}
        measured = task("measure volumes", measure, session, scan, key=scan.key, **io)
        version = task("version data", commit, session, scan, measured, **io)
        if config.data.analyzer == "monai":
            measured = task("MONAI DataAnalyzer", analyse, session, measured, run)
        profile = with_safe_patches(session, summary(session, scan, measured, version))
        run.params(data_params(profile))
        run.dataset(profile)
        task("publish profile", store_profile, session, scan, run, profile)
        print_summary(session, profile)
    session.print(f"  gallery  {gallery_of(session, run.run_id)}")
    return profile.replace(run_id=run.run_id)


def print_summary(session: Session, profile: DatasetProfile) -> None:
    """Print what the profile found; problems go into the data category of the logs."""
    for line in summary_lines(profile):
        session.print(line)
    for line in warning_lines(profile):
        session.print(line, warning="data")


def measure(session: Session, scan: DatasetScan) -> Measured:
    """Check and measure every volume; unchanged ones come from the cache."""
    from minivess.data.profiling.profile import profile as measure_volumes

    with session.progress("volumes measured") as progress:
        measured = measure_volumes(
            scan.pairing,
            scan.hashes,
            config=session.config.data,
            cache=session.home.profile_cache,
            accepted=scan.reviewed.accepted,
            on_volume=progress,
        )
    return replace(
        measured,
        findings=(*measured.findings, *rejections(session.config.dataset, scan.reviewed)),
        quarantined=(*measured.quarantined, *scan.reviewed.rejected),
    )


def queue_findings(session: Session, scan: DatasetScan, profile: DatasetProfile) -> None:
    """Put flagged volumes into the review queue, and print how many wait there."""
    waiting = queue.record_seen(
        session.home,
        session.config.dataset,
        scan.originals,
        scan.hashes,
        profile.findings,
        in_force=scan.reviewed.in_force,
    )
    if waiting:
        waiting_list = f"minivess review list --dataset {shlex.quote(profile.dataset)}"
        session.print(
            f"  review   {several(len(waiting), 'volume', 'wait')} for a decision: {waiting_list}",
            warning="data",
        )


def analyse(session: Session, measured: Measured, run: Run) -> Measured:
    """Store the YAML of MONAI's DataAnalyzer in the run; volumes it left out become findings."""
    from minivess.review.pages import analyzer

    folder = session.home.reports / run.run_id
    written, findings = analyzer.run_analyzer(measured.cases, folder, config=session.config.data)
    for path in written:
        run.file(path, "dataset")
    return replace(measured, findings=(*measured.findings, *findings))


def commit(session: Session, scan: DatasetScan, measured: Measured) -> Version:
    """Copy the volumes that passed into the curated set and make a DVC version of it."""
    session.print(
        f"  version  {several(len(measured.cases), 'volume')}, copied into {session.home.dvc}"
    )
    return versioning.commit(
        session.home,
        session.config.dataset,
        measured.cases,
        remote=session.config.data.remote,
        place=scan.place,
        review=scan.reviewed.history,
        git=session.config.data.git_commit,
    )


def check_out(session: Session, scan: DatasetScan, profile: DatasetProfile) -> DatasetProfile:
    """Restore this version of the curated set where another one, or an edit, replaced it."""
    git = session.config.data.git_commit
    if not versioning.is_at(session.home, profile.dataset, profile.dataset_hash, git=git):
        session.print(f"  restored data version {profile.dataset_hash}")
        commit(session, scan, measure(session, scan))
    return profile


def summary(
    session: Session, scan: DatasetScan, measured: Measured, version: Version | None = None
) -> DatasetProfile:
    """The dataset in numbers; without a version the volumes are neither copied nor recorded."""
    from minivess.data.profiling.profile import summarise

    return summarise(
        measured,
        dataset=session.config.dataset,
        dataset_path=scan.place,
        version=version,
        label_map=session.config.data.labels,
    )


def with_safe_patches(session: Session, profile: DatasetProfile) -> DatasetProfile:
    """The profile with the patch that each model can use on these volumes."""
    loaded, safe = context.as_loaded(session, profile), {}
    for model in grid.models(session.config):
        try:
            safe[model.name] = plan.safe_patch(context.network_for(model, loaded), loaded)
        except PlanError as error:
            session.print(
                f"  note: {model.name} cannot train on these volumes as they are: {error.problem}",
                warning="data",
            )
    return profile.replace(safe_patch_sizes=safe)


def store_profile(session: Session, scan: DatasetScan, run: Run, profile: DatasetProfile) -> None:
    """Store gallery, figures, findings and the profile in its run and on Prefect's page."""
    from minivess.review.pages import gallery

    folder = session.home.reports / run.run_id
    cases = curated.curated_cases(session.home.root / profile.curated, profile)
    out = [case for case in scan.originals.cases if case.case in set(profile.quarantined)]
    history = scan.reviewed.history
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
    """The gallery page of a profile run."""
    return session.home.reports / run_id / "gallery.html"
