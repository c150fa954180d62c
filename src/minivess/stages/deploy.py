"""Flow 4, for the platform engineer: export, prove, build, ask, and only then serve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minivess import files, keys, names
from minivess.contracts import (
    AnalysisResult,
    Case,
    DatasetProfile,
    DeploymentResult,
    Engine,
    Network,
    Parity,
    RunRecord,
    Smoke,
    Window,
)
from minivess.errors import ServingError
from minivess.grid import context
from minivess.orchestration import handoff
from minivess.orchestration.model_versions import promote, with_version
from minivess.orchestration.session import Session
from minivess.orchestration.stage import stage
from minivess.stages import dataset_identity
from minivess.stages.analyse import metrics

if TYPE_CHECKING:
    from minivess.tracking.run.run import Run

PARITY_ARTIFACT = "export/parity.json"


@dataclass(frozen=True)
class Served:
    """The champion as taken from the registry: what to export and what it was trained on."""

    network: Network
    window: Window
    checkpoint: Path
    cases: tuple[Case, ...]
    profile: DatasetProfile
    lineage: dict[str, str]


def deploy(session: Session, upstream: Sequence[str] = ()) -> DeploymentResult:
    """Put the champion of an analysis into service, or find that it is."""
    session.need_store()
    dataset_identity.require(session)
    analysis = with_version(session, handoff.receive_analysis(session, upstream))
    session.say(f"Deploy    {analysis.champion.family}")
    inputs = key_inputs(session, analysis)
    key = keys.digest(inputs)
    return stage(
        session,
        names.DEPLOYMENT,
        key,
        lambda: _deploy(session, analysis, inputs, key),
        usable=built(session, analysis),
        follow=lambda result, _: promote(session, result),
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
    from minivess.serving import package

    champion = analysis.champion
    service = package.built(
        session.home.served, handoff.slug(str(champion.model_name)), str(champion.model_version)
    )
    ids = (str(analysis.run_id), champion.run_id)
    if service is None:
        return False
    return ids == tuple(
        service.lineage.get(name) for name in (names.UPSTREAM_ANALYSIS, names.UPSTREAM_TRAINING)
    )


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
    result = result.replace(run_id=run.run_id)
    tell(session, result)
    return result


def carry_out(
    session: Session, run: Run, analysis: AnalysisResult, training: RunRecord
) -> DeploymentResult:
    """Export, parity, package, smoke test, card: each ends the run FAILED if it fails."""
    task = session.orchestrator.task
    served = task("fetch champion", fetch, session, analysis, training)
    upstream(run, served, analysis)
    run.params(
        {
            f"deployment_{name}": value
            for name, value in session.config.deployment.model_dump().items()
        }
    )
    onnx = task("export", export, session, run, served)
    parity = task("parity", check_parity, session, run, served, onnx)
    engines = task("time engines", time_engines, run, served, onnx)
    tag = task("build service", build, session, served, onnx)
    smoke = task("smoke test", smoke_test, session, run, served, onnx, tag)
    result = DeploymentResult(
        analysis_run_id=str(analysis.run_id),
        model_name=str(analysis.champion.model_name),
        model_version=str(analysis.champion.model_version),
        bento_tag=tag,
        parity=parity,
        engines=engines,
        smoke=smoke,
    )
    finish(session, run, result, served.profile, analysis)
    return result


def export(session: Session, run: Run, served: Served) -> Path:
    """The network as one ONNX file with dynamic axes."""
    from minivess.serving import export

    path = session.home.served / run.run_id / "model.onnx"
    export.to_onnx(served.network, served.checkpoint, path)
    run.file(path, "export")
    return path


def check_parity(session: Session, run: Run, served: Served, onnx: Path) -> Parity:
    """Exported against trained network over whole volumes; the figures are kept either way."""
    from minivess.serving import export

    config = session.config.deployment
    try:
        parity = export.parity(
            served.network,
            served.checkpoint,
            onnx,
            cases=spread(served, config.parity_volumes),
            window=served.window,
            config=config,
        )
    except export.ParityError as failed:
        run.json(failed.parity, PARITY_ARTIFACT)
        raise
    run.json(parity.model_dump(), PARITY_ARTIFACT)
    return parity


def time_engines(run: Run, served: Served, onnx: Path) -> tuple[Engine, ...]:
    """Size and seconds for one volume of each engine on this machine."""
    from minivess.serving import export

    engines = export.engines(
        served.network, served.checkpoint, onnx, case=served.cases[0], window=served.window
    )
    run.json([engine.model_dump() for engine in engines], "engines.json")
    return engines


def build(session: Session, served: Served, onnx: Path) -> str:
    """The BentoML service of this version; returns its tag."""
    from minivess.serving import package

    return package.build(
        session.home.served,
        onnx=onnx,
        network=served.network,
        window=served.window,
        lineage=served.lineage,
        name=handoff.slug(served.lineage["model_name"]),
        version=served.lineage["model_version"],
        classes=served.profile.classes,
    )


def key_inputs(session: Session, analysis: AnalysisResult) -> keys.Ingredients:
    """What decides a deployment."""
    return {
        "analysis": analysis.run_id,
        "champion": [analysis.champion.run_id, analysis.champion.model_version],
        "config": session.config.deployment.key_fields(),
        "code": keys.code(keys.DEPLOYMENT_CODE),
        "versions": keys.versions((*keys.NUMERIC_PACKAGES, "onnx", "onnxruntime", "bentoml")),
    }


def fetch(session: Session, analysis: AnalysisResult, training: RunRecord) -> Served:
    """The champion from the registry, and the volumes that it is tried on."""
    from minivess.tracking.run import model

    champion = analysis.champion
    if training.param("data_resampling_enabled") != "False":
        raise ServingError(
            f"{champion.family} was trained on resampled volumes, which the service cannot do yet.",
            remedy="train at native resolution (leave out data.resampling), or serve it yourself "
            f"with mlflow.pyfunc from run {champion.run_id}",
        )
    profile = handoff.profile_used(session, training)
    folder = session.store.download(
        champion.run_id, names.MODEL_ARTIFACT, session.home.served / "champions" / champion.run_id
    )
    network, window, checkpoint = model.parts(folder)
    lineage = {
        "model_name": str(champion.model_name),
        "model_version": str(champion.model_version),
        names.UPSTREAM_ANALYSIS: str(analysis.run_id),
        names.UPSTREAM_TRAINING: champion.run_id,
        names.UPSTREAM_PROFILE: str(profile.run_id),
        names.DATASET_HASH: profile.dataset_hash,
    }
    cases = tuple(context.restore(session, profile).values())
    return Served(network, window, checkpoint, cases, profile, lineage)


def spread(served: Served, n: int) -> tuple[Case, ...]:
    """The thinnest, the deepest and others between, so that thin volumes are always tried."""
    by_depth = sorted(served.profile.volumes, key=lambda stats: (stats.shape[2], stats.case))
    n = min(n, len(by_depth))
    places = [round(step * (len(by_depth) - 1) / max(n - 1, 1)) for step in range(n)]
    chosen = {by_depth[place].case for place in places}
    return tuple(case for case in served.cases if case.case in chosen)


def smoke_test(session: Session, run: Run, served: Served, onnx: Path, tag: str) -> Smoke:
    """Start the built service and ask it for one known volume."""
    from minivess.data.formats import volume
    from minivess.inference import Predictor
    from minivess.serving import export, predict, smoke

    (case,) = spread(served, 1)
    predictor = Predictor.of(
        served.network, served.window, export.forward(onnx), classes=served.profile.classes
    )
    expected = predict.segment(volume.read_volume(case.image), predictor)
    config = session.config.deployment
    with smoke.serve(tag, session.home, timeout=config.start_timeout_s) as url:
        answer = smoke.ask(url, case, expected, minimum=config.min_mask_agreement)
    run.json(answer.model_dump(), "smoke.json")
    return answer


def upstream(run: Run, served: Served, analysis: AnalysisResult) -> None:
    """Where the served model comes from, as params and as a file."""
    from minivess.tracking.run import params

    lineage = {
        names.UPSTREAM_PROFILE: served.lineage[names.UPSTREAM_PROFILE],
        names.UPSTREAM_TRAINING: served.lineage[names.UPSTREAM_TRAINING],
        names.UPSTREAM_EXPERIMENT: analysis.experiment,
        names.UPSTREAM_ANALYSIS: str(analysis.run_id),
    }
    reached = {k: v for k, v in metrics(analysis).items() if k.startswith("champion_")}
    run.params(
        lineage
        | params.upstream_metrics(reached)
        | params.data_params(served.profile)
        | params.arch_params(served.network)
        | {"model_name": served.network.name, "model_family": served.network.family}
    )
    run.dataset(served.profile)
    run.json(lineage, names.UPSTREAM_ARTIFACT)


def finish(
    session: Session,
    run: Run,
    result: DeploymentResult,
    profile: DatasetProfile,
    analysis: AnalysisResult,
) -> None:
    """Metrics, model card and the result itself."""
    from minivess.serving import card

    run.metrics(
        {
            "max_logit_difference": result.parity.max_logit_difference,
            "mask_agreement": result.parity.mask_agreement,
            "smoke_seconds": result.smoke.seconds,
        }
        | {f"seconds_per_volume_{e.name}": e.seconds_per_volume for e in result.engines}
        | {f"size_mb_{e.name}": e.size_mb for e in result.engines},
        step=0,
    )
    text = card.render(result, profile, analysis)
    run.text(text, "model_card.md")
    files.write_text(session.home.served / run.run_id / "model_card.md", text)
    run.text(lineage_page(session, result), names.LINEAGE_ARTIFACT)
    run.json(result.model_dump(mode="json"), names.DEPLOYMENT_ARTIFACT)
    session.orchestrator.markdown("model-card", text)
    page = session.page_of(run.run_id)
    session.orchestrator.link("mlflow-run", page, "This deployment in MLflow")


def lineage_page(session: Session, result: DeploymentResult) -> str:
    """From the served model back to the data, as a page."""
    from minivess.tracking.upkeep import lineage

    chain = lineage.walk(session.store, result.analysis_run_id)
    links = {record.run_id: session.page_of(record.run_id) for record in chain}
    served = f"{result.model_name}/{result.model_version}, service {result.bento_tag}"
    return lineage.page(chain, links, served=served)


def tell(session: Session, result: DeploymentResult) -> None:
    """What was proved, and how to start the service."""
    session.say(
        f"  ONNX parity over {len(result.parity.volumes)} volumes: largest logit difference "
        f"{result.parity.max_logit_difference:.1e}, masks agree {result.parity.mask_agreement:.4%}"
    )
    session.say(
        f"  service {result.bento_tag} answered {result.smoke.case} in "
        f"{result.smoke.seconds:.1f} s with the mask expected"
    )
