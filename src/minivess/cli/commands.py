"""What each verb does, between the command line and the stories."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from minivess import config as configs
from minivess import files, names
from minivess.cli.grammar import refuse_unused
from minivess.config import ExperimentConfig
from minivess.errors import UsageError
from minivess.home import open_home
from minivess.orchestration.session import Session, open_session
from minivess.runtime import output
from minivess.verbs import VERBS

Outcome = dict[str, Any]
SHOWN_ROWS = 100
Options = argparse.Namespace


def run(options: Options) -> Outcome:
    """Read the settings and carry out the verb; returns what `--json` prints."""
    configs.silence_telemetry()
    config, row = settings(options), VERBS[options.verb]
    story: Callable[..., Outcome] = globals()[f"run_{options.verb.replace('-', '_')}"]
    if row.opens == "nothing":
        return story(config, options)
    env = configs.environment()
    lock = row.opens == "lock" or (row.opens == "lock to apply" and options.apply)
    with open_session(
        config,
        env,
        what=f"minivess {options.verb}",
        launched_by=env.launched_by,
        lock=lock,
        yes=options.yes,
        json=options.json,
        words=[*map(str, options.files), *options.words],
    ) as session:
        return story(session, options)


def settings(options: Options) -> ExperimentConfig:
    """The settings as files, variables and words give them.

    Raises:
        UsageError: a word that this verb does not use, or that the data make meaningless.
    """
    config = configs.load([Path(file) for file in options.files], options.words)
    stages: tuple[str, ...] = ()
    if options.verb == "experiment":
        refit = ("train",) if config.training.refit == "all" else ()
        stages = (*config.flows, *refit)
    refuse_unused(options, stages)
    for word in options.words:
        if word.startswith("data.demo_") and config.data.root is not None:
            raise UsageError(
                f"{word} is about demo data, but data.root={config.data.root} is given.",
                remedy=f"leave out {word} or data.root",
            )
    return config


def say(options: Options, text: str) -> None:
    """What verbs without a session tell; with --json, standard output is the object's."""
    output.tell(sys.stderr if options.json else sys.stdout, text)


# --- the flows ----------------------------------------------------------------------------


def run_experiment(session: Session, options: Options) -> Outcome:
    """The four flows in order."""
    from minivess.stages.experiment import experiment

    return experiment(session)


def run_profile(session: Session, options: Options) -> Outcome:
    """Flow 1."""
    from minivess.stages.profile import profile_data

    profile = profile_data(session)
    return {
        "data_profile_run_id": profile.run_id,
        "dataset_hash": profile.dataset_hash,
        "n_volumes": profile.n_volumes,
        "quarantined": list(profile.quarantined),
        "reused": session.reused,
    }


def run_review(session: Session, options: Options) -> Outcome:
    """The queue of flagged volumes."""
    from minivess.cli import review

    return review.run(options, session.config, session.home, session.say)


def run_watch(session: Session, options: Options) -> Outcome:
    """Poll the data until Ctrl-C."""
    from minivess.stages.watch import watch

    return watch(session)


def run_data_changed(session: Session, options: Options) -> Outcome:
    """Announce new data once."""
    from minivess.stages.watch import data_changed

    return data_changed(session)


def run_notify(session: Session, options: Options) -> Outcome:
    """Call a web address when a deployed flow fails."""
    from minivess.orchestration.alerts import notify

    (url,) = options.arguments
    return notify(session, url)


def run_train(session: Session, options: Options) -> Outcome:
    """Flow 2."""
    from minivess.stages.refit import refit
    from minivess.stages.train import train

    result = train(session, options.upstream)
    refitted = session.config.training.refit != "none"
    again = {"refit_run_id": refit(session)} if refitted else {}
    return again | {
        "experiment": result.experiment,
        "training_run_ids": list(result.run_ids),
        "data_profile_run_id": result.data_profile_run_id,
        "metrics": {family.run_name: family.metrics for family in result.families},
        "reused": session.reused,
    }


def run_search(session: Session, options: Options) -> Outcome:
    """Settings tried one after another."""
    from minivess.stages.search import search

    return search(session, options.upstream)


def run_analyse(session: Session, options: Options) -> Outcome:
    """Flow 3."""
    from minivess.stages.analyse import analyse
    from minivess.stages.experiment import champion, report

    result = analyse(session, options.upstream)
    return {
        "analysis_run_id": result.run_id,
        "training_run_ids": list(result.training_run_ids),
        "champion": champion(result),
        "report": str(report(session, str(result.run_id))),
        "reused": session.reused,
    }


def run_deploy(session: Session, options: Options) -> Outcome:
    """Flow 4."""
    from minivess.stages.deploy import deploy

    result = deploy(session, options.upstream)
    return {
        "deployment_run_id": result.run_id,
        "model": f"{result.model_name}/{result.model_version}",
        "bento_tag": result.bento_tag,
        "parity": result.parity.model_dump(),
        "reused": session.reused,
    }


# --- reading and upkeep -------------------------------------------------------------------


def run_plan(session: Session, options: Options) -> Outcome:
    """The adaptive decision and its forecast; trains nothing and records no run."""
    from minivess.stages.plan import plan

    return plan(session, options.upstream)


def run_predict(session: Session, options: Options) -> Outcome:
    """Segment files with a registered model."""
    from minivess.stages.predict import predict

    source, target = (Path(word).expanduser() for word in options.arguments)
    return predict(session, source, target, upstream=options.upstream)


def run_lineage(session: Session, options: Options) -> Outcome:
    """From a run or model back to the data hash."""
    from minivess.tracking.upkeep import lineage

    (reference,) = options.arguments
    chain = lineage.walk(session.store, reference)
    for record in chain:
        kind = record.tags.get(names.KIND, "?")
        session.say(f"  {kind:<11} {record.run_id}  {record.status}  {record.name}")
    data_hash = chain[-1].params.get(names.DATASET_HASH)
    session.say(f"  {'data':<11} {data_hash}")
    links = {record.run_id: session.page_of(record.run_id) for record in chain}
    page = files.write_text(
        session.home.reports / chain[0].run_id / "lineage.html", lineage.page(chain, links)
    )
    session.say(f"  {'page':<11} {page}")
    return {
        "page": str(page),
        "chain": [
            {"kind": r.tags.get(names.KIND), "run_id": r.run_id, "status": r.status} for r in chain
        ],
        "dataset_hash": data_hash,
    }


def run_sql(session: Session, options: Options) -> Outcome:
    """Ask the workspace, brought up to date first."""
    from minivess.analysis import workspace
    from minivess.stages.analyse import refresh_workspace

    (query,) = options.arguments
    refresh_workspace(session)
    rows = workspace.query(session.home.workspace, query)
    for row in rows[:SHOWN_ROWS]:
        cells = (f"{key}={'NULL' if value is None else value}" for key, value in row.items())
        session.say("  " + "  ".join(cells))
    if len(rows) > SHOWN_ROWS:
        session.say(f"  {SHOWN_ROWS} of {len(rows)} rows are shown; --json prints all")
    elif not rows:
        session.say("  no rows")
    return {"rows": rows}


def run_summary(config: ExperimentConfig, options: Options) -> Outcome:
    """The table of families, from the rows of their folds; MLflow is not asked."""
    from minivess.tracking.run import metric_files

    home = open_home(configs.environment().home, reading=True)
    place = metric_files.folder(home, config.experiment)
    rows = metric_files.summarise(place)
    for row in rows:
        std = "" if row["std"] is None else f" +- {row['std']:.4g}"
        mean = "-" if row["mean"] is None else f"{row['mean']:.4g}"
        lost = f", {row['n_undefined']:.0f} undefined" if row["n_undefined"] else ""
        say(
            options,
            f"  {row['metric']:<34} {row['rank']}  {row['family']:<28} "
            f"{mean}{std} (n_folds={row['n_folds']}{lost})",
        )
    return {"file": str(place / "summary.csv"), "rows": rows}


def run_settle(session: Session, options: Options) -> Outcome:
    """Replay journals, end dead runs, write every pointer and missing model anew from MLflow."""
    from minivess.cli import maintenance

    return maintenance.settle(session, options.arguments)


def run_status(session: Session, options: Options) -> Outcome:
    """What runs, what is unfinished, what is out of date."""
    from minivess.cli import maintenance

    return maintenance.status(session, follow=options.follow)


def run_audit(session: Session, options: Options) -> Outcome:
    """Every run held against the contract."""
    from minivess.cli import maintenance

    return maintenance.audit(session, options.arguments)


def run_backfill(session: Session, options: Options) -> Outcome:
    """Params that older runs lack."""
    from minivess.cli import maintenance

    return maintenance.backfill(session, options.arguments, apply=options.apply)


def run_purge(session: Session, options: Options) -> Outcome:
    """Deleted runs, removed for good."""
    from minivess.cli import maintenance

    return maintenance.purge(session, options.arguments, apply=options.apply, force=options.force)


def run_reproduce(session: Session, options: Options) -> Outcome:
    """A training run done again and compared, or made into a bundle."""
    from minivess.cli import maintenance
    from minivess.stages import reproduce

    (what,) = options.arguments
    if options.export is None:
        return maintenance.reproduce(session, what, trust=options.trust)
    target = Path(options.export).expanduser().resolve() if options.export else None
    return {"bundle": str(reproduce.export(session, what, target))}


def run_rebase(config: ExperimentConfig, options: Options) -> Outcome:
    """Artifact addresses after a move; the only verb that a moved home opens for."""
    from minivess.cli import maintenance

    lines, outcome = maintenance.rebase(
        config, configs.environment(), options.arguments, apply=options.apply
    )
    say(options, "\n".join(lines))
    return outcome


def run_demo_data(config: ExperimentConfig, options: Options) -> Outcome:
    """Write the demo volumes where the user wants them."""
    from minivess.data.demo import phantom

    (folder,) = options.arguments
    made = phantom.generate(
        Path(folder).expanduser(), n=config.data.demo_volumes, seed=config.data.demo_seed
    )
    return {"folder": str(made)}


def run_ui(config: ExperimentConfig, options: Options) -> Outcome:
    """Both pages, until Ctrl-C."""
    from minivess.orchestration import prefect_server

    home = open_home(configs.environment().home)
    prefect_server.ui(
        home,
        config.tracking,
        prefect_port=options.prefect_port,
        mlflow_port=options.mlflow_port,
    )
    return {}
