"""Flow 4, for the platform engineer: export, check parity, build, smoke-test, then serve."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minivess import files, keys, names
from minivess.combination import segmenting
from minivess.contracts import (
    AnalysisResult,
    Case,
    DatasetProfile,
    DeploymentResult,
    Engine,
    EngineName,
    Parity,
    RunRecord,
    Smoke,
    Uncertainty,
)
from minivess.data.profiling.domain import domain_of
from minivess.errors import ServingError
from minivess.grid import context
from minivess.orchestration import handoff
from minivess.orchestration.model_versions import promote, with_version
from minivess.orchestration.session import Session
from minivess.orchestration.stage import stage
from minivess.serving import package
from minivess.stages import dataset_identity
from minivess.stages.analyse import metrics
from minivess.text import several, slug
from minivess.tracking.run import params

if TYPE_CHECKING:
    from minivess.tracking.run.model import Trained
    from minivess.tracking.run.run import Run

PARITY_ARTIFACT = "export/parity.json"


@dataclass(frozen=True)
class ChampionModel:
    """The champion as taken from the registry: what to export and what it was trained on."""

    trained: Trained
    cases: tuple[Case, ...]
    profile: DatasetProfile
    lineage: dict[str, str]
    uncertainty: Uncertainty | None
    """None where the analysis measured another champion."""


def deploy(session: Session, upstream: Sequence[str] = ()) -> DeploymentResult:
    """Export, check and serve the champion of an analysis, unless that was done.

    Args:
        upstream: id of an analysis run; default, the latest of the experiment.
    """
    session.need_store()
    dataset_identity.require(session)
    analysis = with_version(session, handoff.receive_analysis(session, upstream))
    session.print(f"Deploy    {analysis.champion.family}")
    return make(session, analysis, follow=lambda result, _: promote(session, result))


def make(
    session: Session,
    analysis: AnalysisResult,
    follow: Callable[[DeploymentResult, bool], object] = lambda result, first: None,
) -> DeploymentResult:
    """Export, prove and build the service of an analysis' champion, unless that was done."""
    inputs = key_inputs(session, analysis)
    key = keys.digest(inputs)
    return stage(
        session,
        names.DEPLOYMENT,
        key,
        lambda: _deploy(session, analysis, inputs, key),
        usable=built(session, analysis),
        follow=follow,
    )


def outcome(session: Session, result: DeploymentResult) -> dict[str, Any]:
    """Id, model version and parity of the deployment for `--json` and Prefect."""
    return {
        "deployment_run_id": result.run_id,
        "model": f"{result.model_name}/{result.model_version}",
        "bento_tag": result.bento_tag,
        "parity": result.parity.model_dump(),
        "reused": session.reused,
    }


def built(session: Session, analysis: AnalysisResult) -> bool:
    """Whether this home holds the service of this analysis and its champion."""
    champion = analysis.champion
    service = package.built(
        session.home.served, slug(str(champion.model_name)), str(champion.model_version)
    )
    ids = {
        names.UPSTREAM_ANALYSIS: str(analysis.run_id),
        names.UPSTREAM_TRAINING: champion.run_id,
    }
    return service is not None and ids.items() <= service.lineage.items()


def _deploy(
    session: Session, analysis: AnalysisResult, inputs: keys.Ingredients, key: str
) -> DeploymentResult:
    best = analysis.champion
    training = session.store.get(best.run_id)
    name, dataset = f"{analysis.experiment}_{best.family}", training.param(names.DATASET_NAME)
    note = (
        f"{best.model_name} version {best.model_version}: {best.family}, "
        f"{best.metric} {best.value:.3f}"
    )
    with session.run(names.DEPLOYMENT, name, key, note, inputs, dataset=dataset) as run:
        result = carry_out(session, run, analysis, training)
    parity, smoke = result.parity, result.smoke
    session.print(
        f"  ONNX parity over {several(len(parity.volumes), 'volume')}: largest logit difference "
        f"{parity.max_logit_difference:.1e} ({parity.relative_difference:.1e} of their range), "
        f"masks agree {parity.mask_agreement:.4%}"
    )
    session.print(
        f"  service {result.bento_tag} ({result.engine}) answered {smoke.case} in "
        f"{smoke.seconds:.1f} s with the mask expected"
    )
    command = package.image_command(session.home.served, result.bento_tag)
    session.print(f"  as an image: {command}")
    return result.replace(run_id=run.run_id)


def carry_out(
    session: Session, run: Run, analysis: AnalysisResult, training: RunRecord
) -> DeploymentResult:
    """Export, parity, package, smoke test, card: each ends the run FAILED if it fails."""
    from minivess.serving import export

    task, champion = session.orchestrator.task, analysis.champion
    model = task("fetch champion", fetch, session, analysis, training)
    store_origin(session, run, model, analysis)
    onnx = task("export", export.each, *model.trained, session.home.served / run.run_id)
    for file in onnx:
        run.file(file, "export")
    parity = task("parity", check_parity, session, run, model, onnx)
    engines = task("time engines", export.engines, *model.trained, onnx, case=model.cases[0])
    run.json([engine.model_dump() for engine in engines], "engines.json")
    engine = task("choose engine", choose_engine, session, model, onnx, engines)
    tag = task("build service", build, session, model, onnx, engine)
    smoke = task("smoke test", smoke_test, session, model, onnx, tag)
    run.json(smoke.model_dump(), "smoke.json")
    result = DeploymentResult(
        analysis_run_id=str(analysis.run_id),
        model_name=str(champion.model_name),
        model_version=str(champion.model_version),
        bento_tag=tag,
        parity=parity,
        engines=engines,
        engine=engine,
        smoke=smoke,
    )
    store_deployment(session, run, result, model.profile, analysis)
    return result


def check_parity(session: Session, run: Run, model: ChampionModel, onnx: Sequence[Path]) -> Parity:
    """Compare exported and trained network over whole volumes; the figures are stored either way.

    Raises:
        ParityError: they differ by more than the limits of `deployment`.
    """
    from minivess.serving import export

    config = session.config.deployment
    cases = spread(model.cases, model.profile, config.parity_volumes)
    try:
        parity = export.parity(*model.trained, onnx, cases=cases, config=config)
    except export.ParityError as failed:
        run.json(failed.parity, PARITY_ARTIFACT)
        raise
    run.json(parity.model_dump(), PARITY_ARTIFACT)
    return parity


def choose_engine(
    session: Session, model: ChampionModel, onnx: Sequence[Path], measured: Sequence[Engine]
) -> EngineName:
    """The engine that serves: as stated, else the fastest that passes parity in float32.

    Raises:
        ParityError: the engine that is stated does not pass.
    """
    from minivess.serving import export

    config = session.config.deployment
    chosen = export.fastest(measured, config.engine)
    if chosen == "onnxruntime":  # passed before
        return chosen
    cases = spread(model.cases, model.profile, config.parity_volumes)
    try:
        export.parity(*model.trained, onnx, cases=cases, config=config, engine=chosen)
    except export.ParityError as failed:
        if config.engine != "auto":
            raise
        session.print(f"  {chosen} is faster and left out: {failed.problem}")
        return "onnxruntime"
    return chosen


def build(
    session: Session, model: ChampionModel, onnx: Sequence[Path], engine: EngineName = "onnxruntime"
) -> str:
    """Build the BentoML service of this version; returns its tag."""
    return package.build(
        session.home.served,
        onnx=onnx,
        composition=model.trained.composition,
        lineage=model.lineage,
        name=slug(model.lineage["model_name"]),
        version=model.lineage["model_version"],
        classes=model.profile.classes,
        domain=domain_of(model.profile),
        engine=engine,
        out_of_range=session.config.deployment.out_of_range,
        request_limit_s=session.config.deployment.request_limit_s,
        uncertainty=model.uncertainty,
    )


def key_inputs(session: Session, analysis: AnalysisResult) -> keys.Ingredients:
    """Everything that decides a deployment."""
    from minivess.serving.export import installed

    return {
        "analysis": analysis.run_id,
        "champion": [analysis.champion.run_id, analysis.champion.model_version],
        "config": session.config.deployment.key_fields(),
        "code": keys.code(keys.DEPLOYMENT_CODE),
        "versions": keys.versions((*keys.NUMERIC_PACKAGES, "onnx", "bentoml", *installed())),
    }


def fetch(session: Session, analysis: AnalysisResult, training: RunRecord) -> ChampionModel:
    """The champion from the registry, and the volumes that it is tried on."""
    champion = analysis.champion
    profile = handoff.profile_used(session, training)
    trained = download_model(session, training)
    origin = {
        "model_name": str(champion.model_name),
        "model_version": str(champion.model_version),
        names.UPSTREAM_ANALYSIS: str(analysis.run_id),
        names.UPSTREAM_TRAINING: champion.run_id,
        names.UPSTREAM_PROFILE: str(profile.run_id),
        names.DATASET_HASH: profile.dataset_hash,
    }
    cases = tuple(context.restore(session, profile).values())
    known = analysis.uncertainty
    of_champion = known if known and known.name == champion.family else None
    return ChampionModel(trained, cases, profile, origin, of_champion)


def download_model(session: Session, training: RunRecord) -> Trained:
    """The networks of the model that a training or an ensemble run holds.

    Raises:
        ServingError: it was trained on resampled volumes, and its record does not say how, or by
            a method that only its author has.
    """
    from minivess.tracking.run import model

    found = model.trained(session.store, training.run_id)
    how, first = found.composition.window.resampling, handoff.first_member(session, training)
    if first.param("data_resampling_enabled") != "False" and how is None:
        raise ServingError(
            f"The model of {training.name} ({training.run_id}) was trained on resampled volumes by "
            "an earlier release, which did not store how.",
            remedy="train it again: training.retrain=always",
        )
    if how is not None and how.method != "spacing":
        raise ServingError(
            f"The model of {training.name} ({training.run_id}) was trained on volumes resampled by "
            f"{how.method}, which says no way back to the grid of a file.",
            remedy="train with data.resampling.method=spacing, or at native resolution",
        )
    return found


def spread(cases: Iterable[Case], profile: DatasetProfile, n: int) -> tuple[Case, ...]:
    """`n` volumes from the thinnest to the deepest, so that thin volumes are always tried."""
    by_depth = sorted(profile.volumes, key=lambda stats: (stats.shape[2], stats.case))
    n = min(n, len(by_depth))
    places = [round(step * (len(by_depth) - 1) / max(n - 1, 1)) for step in range(n)]
    chosen = {by_depth[place].case for place in places}
    return tuple(case for case in cases if case.case in chosen)


def smoke_test(session: Session, model: ChampionModel, onnx: Sequence[Path], tag: str) -> Smoke:
    """Start the built service and ask it for one known volume."""
    from minivess.formats import volume
    from minivess.serving import export, predict, smoke

    (case,) = spread(model.cases, model.profile, 1)
    predictor = segmenting(
        model.trained.composition, list(map(export.forward, onnx)), classes=model.profile.classes
    )
    expected = predict.segment(volume.read_volume(case.image), predictor)
    config = session.config.deployment
    with smoke.serve(tag, session.home, timeout=config.start_timeout_s) as service:
        return smoke.ask(service.url, case, expected, minimum=config.min_mask_agreement)


def store_origin(
    session: Session, run: Run, model: ChampionModel, analysis: AnalysisResult
) -> None:
    """Store which runs, data and settings the service comes from."""
    upstream = (names.UPSTREAM_PROFILE, names.UPSTREAM_TRAINING, names.UPSTREAM_ANALYSIS)
    origin = {name: model.lineage[name] for name in upstream}
    origin[names.UPSTREAM_EXPERIMENT] = analysis.experiment
    judged = analysis.champion.family in {
        one.name for one in (*analysis.families, *analysis.ensembles)
    }
    figures = metrics(analysis) if judged else {}  # a refit was never scored
    reached = {k: v for k, v in figures.items() if k.startswith("champion_")}
    settings = session.config.deployment.model_dump()
    run.params(
        origin
        | params.upstream_metrics(reached)
        | params.data_params(model.profile)
        | params.composition_params(model.trained.composition)
        | {f"deployment_{name}": value for name, value in settings.items()}
    )
    run.dataset(model.profile)
    run.json(origin, names.UPSTREAM_ARTIFACT)


def _called(engine: Engine) -> str:
    return engine.name if engine.precision == "fp32" else f"{engine.name}_{engine.precision}"


def store_deployment(
    session: Session,
    run: Run,
    result: DeploymentResult,
    profile: DatasetProfile,
    analysis: AnalysisResult,
) -> None:
    """Store metrics, model card, lineage page and the result, and show the card in Prefect."""
    from minivess.serving import card
    from minivess.upkeep import lineage

    run.metrics(
        {
            "max_logit_difference": result.parity.max_logit_difference,
            "relative_logit_difference": result.parity.relative_difference,
            "mask_agreement": result.parity.mask_agreement,
            "smoke_seconds": result.smoke.seconds,
        }
        | {f"seconds_per_volume_{_called(e)}": e.seconds_per_volume for e in result.engines}
        | {f"size_mb_{_called(e)}": e.size_mb for e in result.engines},
        step=0,
    )
    text = card.render(result, profile, analysis)
    run.text(text, "model_card.md")
    files.write_text(session.home.served / run.run_id / "model_card.md", text)
    chain = lineage.walk(session.store, result.analysis_run_id)
    links = {record.run_id: session.page_of(record.run_id) for record in chain}
    served = f"{result.model_name}/{result.model_version}, service {result.bento_tag}"
    run.text(lineage.page(chain, links, served=served), names.LINEAGE_ARTIFACT)
    run.json(result.model_dump(mode="json"), names.DEPLOYMENT_ARTIFACT)
    session.orchestrator.markdown("model-card", text)
    session.orchestrator.markdown("lineage", lineage.picture(chain, links, served=served))
    page = session.page_of(run.run_id)
    session.orchestrator.link("mlflow-run", page, "This deployment in MLflow")
