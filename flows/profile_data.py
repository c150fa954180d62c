"""Flow 1, for the data engineer: pair, check, measure, version and publish a dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows import ground, handoff
from flows.session import Session
from minivess import config as configs
from minivess import keys, names
from minivess.contracts import DatasetProfile, Pairing
from minivess.errors import PlanError

if TYPE_CHECKING:
    from minivess.data.profile import Measured
    from minivess.data.reviewed import Reviewed
    from minivess.data.versioning import Version
    from minivess.tracking.run import Run

SHOWN_PAIRS = 5


@dataclass(frozen=True)
class Survey:
    """What can be known about a dataset without opening a volume."""

    root: Path
    place: str
    originals: Pairing
    reviewed: Reviewed
    ingredients: keys.Ingredients
    key: str

    @property
    def pairing(self) -> Pairing:
        """The volumes to profile, after review."""
        return self.reviewed.pairing

    @property
    def hashes(self) -> dict[Path, str]:
        """MD5 of every file, those that review brought included."""
        return self.reviewed.hashes


def profile_data(session: Session) -> DatasetProfile:
    """Profile and version the dataset, or find that this was done already."""
    session.say(f"Profile   {session.config.dataset}")
    survey = look(session)
    show(session, survey.root, survey.originals)
    say_decided(session, survey.reviewed)
    record = session.find(survey.key, experiment=names.PROFILE_EXPERIMENT)
    if record is not None:
        session.reuse(f"profile of {session.config.dataset}", record.run_id)
        profile = handoff.profile_of(session, record.run_id)
        check_out(session, survey, profile)
    else:
        profile = session.orchestra.flow(
            "profile-data", _profile, session, survey, parameters=settings(session)
        )
    queue(session, survey, profile)
    session.profiles[str(profile.run_id)] = profile
    pointer = handoff.profile_pointer(profile)
    handoff.complete(
        session,
        names.PROFILE,
        profile.dataset,
        pointer,
        run_ids=[str(profile.run_id)],
        follow=lambda: session.orchestra.emit(
            names.DATA_PROFILED,
            f"minivess.dataset.{profile.dataset}",
            {**pointer, "settings": configs.words(session.config)},
        ),
    )
    return profile


def _profile(session: Session, survey: Survey) -> DatasetProfile:
    from minivess.tracking.life import recorded
    from minivess.tracking.params import data_params

    config, orchestra = session.config, session.orchestra
    with recorded(
        session.store,
        experiment=names.PROFILE_EXPERIMENT,
        name=config.dataset,
        kind=names.PROFILE,
        key=survey.key,
        note=f"Profile of {config.dataset}: {len(survey.pairing.cases)} volumes at {survey.place}",
        dataset=config.dataset,
        config=config,
        ingredients=survey.ingredients,
        launched_by=session.launched_by,
    ) as run:
        io: Any = {"retries": 2, "limit_s": config.data.time_limit_s}
        measured = orchestra.task("measure volumes", measure, session, survey, key=survey.key, **io)
        version = orchestra.task("version data", commit, session, survey, measured, **io)
        if config.data.analyzer == "monai":
            measured = orchestra.task("MONAI DataAnalyzer", analyse, session, survey, measured, run)
        profile = summary(session, survey, measured, version)
        run.params(data_params(profile))
        run.dataset(profile)
        orchestra.task("publish profile", store_profile, session, survey, run, profile)
    tell(session, profile)
    session.say(f"  gallery  {gallery_of(session, run.run_id)}")
    return profile.replace(run_id=run.run_id)


def look(session: Session) -> Survey:
    """Find the pairs and the key of the profile that they make; opens no volume."""
    from minivess.data import cases
    from minivess.data.index import Index
    from minivess.data.reviewed import after_review

    config = session.config
    root, fetch = found(session)
    pairing = cases.pair(
        root, image=config.data.image, label=config.data.label, group=config.data.group
    )
    fetch(_files(pairing))
    hashes = Index(session.home.profile_cache / "index.json").hashes(list(_files(pairing)))
    reviewed = after_review(session.home, config.dataset, pairing, hashes)
    ingredients: keys.Ingredients = {
        "dataset": config.dataset,
        "files": {file.relative_to(root).as_posix(): value for file, value in hashes.items()},
        "pairs": [[case.case, case.group] for case in pairing.cases],
        "review": reviewed.in_force,
        "settings": config.data.counted(),
        "remote": config.data.remote,
        "code": keys.code(keys.DATA_CODE),
    }
    place = str(config.data.root or root)
    return Survey(root, place, pairing, reviewed, ingredients, keys.digest(ingredients))


def found(session: Session) -> tuple[Path, Callable[[Iterable[Path]], object]]:
    """The folder of the data, and what makes some of its files readable."""
    root = session.config.data.root
    if not isinstance(root, str):
        return root or demo(session), lambda paths: None
    from minivess.data.sources import Mirror

    mirror = Mirror(root, session.home.sources)

    def fetch(paths: Iterable[Path]) -> None:
        with session.progress("files fetched") as progress:
            number = mirror.fetch(paths, progress)
        if number:
            session.say(f"  fetched  {number} files of {root}")

    return mirror.listed(), fetch


def demo(session: Session) -> Path:
    """The demo volumes of this home, made on first use."""
    from minivess.data import phantom

    data = session.config.data
    return phantom.generate(session.home.demo, n=data.demo_volumes, seed=data.demo_seed)


def measure(session: Session, survey: Survey) -> Measured:
    """Check and measure every volume; unchanged ones come from the cache."""
    from minivess.data import profile
    from minivess.data.reviewed import rejections

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
        findings=(*measured.findings, *rejections(survey.reviewed)),
        quarantined=(*measured.quarantined, *survey.reviewed.rejected),
    )


def queue(session: Session, survey: Survey, profile: DatasetProfile) -> None:
    """Put what was flagged into the review queue, and say what waits there."""
    from minivess.data import review

    waiting = review.enter(
        session.home,
        session.config.dataset,
        survey.originals,
        survey.hashes,
        profile.findings,
        in_force=survey.reviewed.in_force,
    )
    if waiting:
        session.say(f"  review   {len(waiting)} volumes wait for a decision: minivess review list")


def say_decided(session: Session, reviewed: Reviewed) -> None:
    """Which decisions count in this run."""
    for case, decided in reviewed.in_force.items():
        last = reviewed.history[case][-1]
        session.say(f"  review   {case}: {decided['verdict']} by {last['who']}, {last['why']}")


def analyse(session: Session, survey: Survey, measured: Measured, run: Run) -> Measured:
    """Keep the YAML of MONAI's DataAnalyzer in the run; what it left out becomes a finding."""
    from minivess.data import analyzer

    quarantined = set(measured.quarantined)
    good = [case for case in survey.pairing.cases if case.case not in quarantined]
    folder = session.home.reports / run.run_id
    written, findings = analyzer.analyse(good, folder, config=session.config.data)
    for path in written:
        run.file(path, "dataset")
    return replace(measured, findings=(*measured.findings, *findings))


def commit(session: Session, survey: Survey, done: Measured | DatasetProfile) -> Version:
    """Copy the volumes that passed into the curated set and make a DVC version of it."""
    from minivess.data import versioning

    quarantined = set(done.quarantined)
    good = [case for case in survey.pairing.cases if case.case not in quarantined]
    return versioning.commit(
        session.home,
        session.config.dataset,
        good,
        remote=session.config.data.remote,
        review=survey.reviewed.history,
        git=session.config.data.git_commit,
    )


def check_out(session: Session, survey: Survey, profile: DatasetProfile) -> None:
    """Make the curated set this version again where another one, or an edit, took its place."""
    from minivess.data import versioning

    git = session.config.data.git_commit
    if not versioning.is_at(session.home, profile.dataset, profile.dataset_hash, git=git):
        session.say(f"  version  {profile.dataset_hash} is put in place again")
        commit(session, survey, profile)


def summary(
    session: Session, survey: Survey, measured: Measured, version: Version
) -> DatasetProfile:
    """The dataset in numbers, with the patch that each model could use on it."""
    from minivess.compute import plan
    from minivess.data import profile
    from minivess.training import grid

    config = session.config
    numbers = profile.summarise(
        measured,
        dataset=config.dataset,
        dataset_path=survey.place,
        version=version,
        label_map=config.data.label_map,
    )
    loaded, safe = ground.as_loaded(session, numbers), {}
    for model in grid.models(config):
        try:
            safe[model.name] = plan.safe_patch(ground.network_for(model, loaded), loaded)
        except PlanError as error:
            session.say(
                f"  note: {model.name} cannot train on these volumes as they are: {error.problem}"
            )
    return numbers.replace(safe_patch_sizes=safe)


def store_profile(session: Session, survey: Survey, run: Run, profile: DatasetProfile) -> None:
    """Everything a reader of the profile run finds there."""
    from minivess.data import curated, gallery

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
    rows = [stats.model_dump(mode="json", exclude={"percentiles"}) for stats in profile.volumes]
    session.orchestra.table("volumes", rows, f"Volumes of {profile.dataset}")
    session.orchestra.markdown("data-profile", markdown(profile))
    session.orchestra.link("mlflow-run", session.page_of(run.run_id), "This profile in MLflow")


def show(session: Session, root: Path, pairing: Pairing) -> None:
    """The first pairs as read, and what was left over."""

    def place(path: Path) -> str:
        return path.relative_to(root).as_posix()

    session.say(f"  {len(pairing.cases)} pairs, read as {pairing.layout}:")
    for case in pairing.cases[:SHOWN_PAIRS]:
        label = place(case.label) if case.label else "no label"
        group = f"   group {case.group}" if case.group else ""
        session.say(f"    {case.case}: {place(case.image)} + {label}{group}")
    if len(pairing.cases) > SHOWN_PAIRS:
        session.say(f"    ... and {len(pairing.cases) - SHOWN_PAIRS} more")
    for title, paths in (
        ("images without a label", pairing.unpaired_images),
        ("labels without an image", pairing.unpaired_labels),
        ("other files left alone", pairing.left),
    ):
        if paths:
            listed = ", ".join(place(path) for path in paths[:SHOWN_PAIRS])
            more = f" and {len(paths) - SHOWN_PAIRS} more" if len(paths) > SHOWN_PAIRS else ""
            session.say(f"  {title}: {listed}{more}")
    for note in pairing.notes:
        session.say(f"  note: {note}")


def tell(session: Session, profile: DatasetProfile) -> None:
    """What the profile found, in a few lines."""
    session.say(
        f"  {profile.n_volumes} volumes, {size(profile.min_shape)} to {size(profile.max_shape)}, "
        f"{len(profile.classes)} classes, data {profile.dataset_hash[:20]}"
    )
    if profile.quarantined:
        session.say(f"  quarantined: {', '.join(profile.quarantined)}")
    for finding in profile.findings:
        if finding.severity != "info":
            where = f"{finding.case}: " if finding.case else ""
            session.say(f"  {finding.severity}: {where}{finding.message} ({finding.remedy})")


def gallery_of(session: Session, run_id: str) -> Path:
    """Where a profile run leaves its page."""
    return session.home.reports / run_id / "gallery.html"


def markdown(profile: DatasetProfile) -> str:
    """The profile for Prefect's page."""
    lines = [
        f"# {profile.dataset}",
        f"{profile.n_volumes} volumes, {size(profile.min_shape)} to {size(profile.max_shape)}, "
        f"classes {list(profile.classes)}, data hash `{profile.dataset_hash}`.",
        "",
        "| severity | code | volume | what | remedy |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {f.severity} | {f.code} | {f.case or 'set'} | {f.message} | {f.remedy} |"
        for f in profile.findings
    ]
    return "\n".join(lines)


def size(shape: tuple[int, ...]) -> str:
    """A shape as people write it: 64x64x5."""
    return "x".join(map(str, shape))


def settings(session: Session) -> dict[str, Any]:
    """What Prefect's page shows as a flow's parameters."""
    config = session.config
    return {
        "dataset": config.dataset,
        "experiment": config.experiment,
        "data_root": str(config.data.root) if config.data.root else None,
        "home": str(session.home.root),
    }


def _files(pairing: Pairing) -> Iterator[Path]:
    for case in pairing.cases:
        yield case.image
        if case.label is not None:
            yield case.label
