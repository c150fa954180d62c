"""Carry out a verb: read its settings, open a session where it needs one, call its stage."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from minivess import config as configs
from minivess import files, names
from minivess.analysis import workspace
from minivess.cli import maintenance, review
from minivess.cli.grammar import refuse_unused
from minivess.config import ExperimentConfig
from minivess.data.demo import phantom
from minivess.errors import UsageError
from minivess.home import open_home
from minivess.orchestration import alerts, pages
from minivess.orchestration.session import Session, open_session
from minivess.stages import (
    analyse,
    bundle,
    deploy,
    experiment,
    plan,
    predict,
    profile,
    refit,
    reproduce,
    search,
    train,
    watch,
)
from minivess.tracking.run import metric_files
from minivess.verbs import VERBS

Outcome = dict[str, Any]
SHOWN_ROWS = 100
Options = argparse.Namespace


def run(options: Options) -> Outcome:
    """Read the settings and carry out the verb; returns what `--json` prints."""
    configs.silence_telemetry()
    config, row, story = settings(options), VERBS[options.verb], STORIES[options.verb]
    if row.opens == "nothing":
        return story(config, options)
    env = configs.environment()
    with open_session(
        config,
        env,
        what=f"minivess {options.verb}",
        launched_by=env.launched_by,
        lock=row.opens == "lock" or (row.opens == "lock to apply" and options.apply),
        yes=options.yes,
        json=options.json,
        words=[*map(str, options.files), *options.overrides],
    ) as session:
        return story(session, options)


def settings(options: Options) -> ExperimentConfig:
    """The settings that files, variables and overrides give.

    Raises:
        UsageError: an override that this verb does not use, or that the data make meaningless.
    """
    config = configs.load([Path(file) for file in options.files], options.overrides)
    stages: tuple[str, ...] = ()
    if options.verb == "experiment":
        refitted = ("train",) if config.training.refit == "all" else ()
        stages = (*config.flows, *refitted)
    refuse_unused(options, stages)
    for override in options.overrides:
        if override.startswith("data.demo_") and config.data.root is not None:
            raise UsageError(
                f"{override} is about demo data, but data.root={config.data.root} is given.",
                remedy=f"leave out {override} or data.root",
            )
    return config


# --- verbs of more than one call ----------------------------------------------------------


def train_and_refit(session: Session, options: Options) -> Outcome:
    """Train the grid, and with `training.refit=all` the champion on all volumes."""
    result = train.train(session, options.upstream)
    refitted = session.config.training.refit != "none"
    again = {"refit_run_id": refit.refit(session)} if refitted else {}
    return again | train.outcome(session, result)


def show_lineage(session: Session, options: Options) -> Outcome:
    """Print the chain from a run or model back to the data hash, and write its page."""
    from minivess.tracking.upkeep import lineage

    chain = lineage.walk(session.store, *options.arguments)
    for record in chain:
        kind = record.tags.get(names.KIND, "?")
        session.print(f"  {kind:<11} {record.run_id}  {record.status}  {record.name}")
    data_hash = chain[-1].params.get(names.DATASET_HASH)
    session.print(f"  {'data':<11} {data_hash}")
    links = {record.run_id: session.page_of(record.run_id) for record in chain}
    page = session.home.reports / chain[0].run_id / "lineage.html"
    files.write_text(page, lineage.page(chain, links))
    session.print(f"  {'page':<11} {page}")
    return {
        "page": str(page),
        "chain": [
            {"kind": r.tags.get(names.KIND), "run_id": r.run_id, "status": r.status} for r in chain
        ],
        "dataset_hash": data_hash,
    }


def query(session: Session, options: Options) -> Outcome:
    """Ask DuckDB over all runs, brought up to date first."""
    analyse.refresh_workspace(session)
    rows = workspace.query(session.home.workspace, *options.arguments)
    for row in rows[:SHOWN_ROWS]:
        cells = (f"{key}={'NULL' if value is None else value}" for key, value in row.items())
        session.print("  " + "  ".join(cells))
    if len(rows) > SHOWN_ROWS:
        session.print(f"  {SHOWN_ROWS} of {len(rows)} rows are shown; --json prints all")
    elif not rows:
        session.print("  no rows")
    return {"rows": rows}


def summarise(config: ExperimentConfig, options: Options) -> Outcome:
    """Print the table of configurations from the files of their folds; MLflow is not asked."""
    home = open_home(configs.environment().home, reading=True)
    place = metric_files.folder(home, config.experiment)
    rows = metric_files.summarise(place)
    for row in rows:
        std = "" if row["std"] is None else f" +- {row['std']:.4g}"
        mean = "-" if row["mean"] is None else f"{row['mean']:.4g}"
        lost = f", {row['n_undefined']:.0f} undefined" if row["n_undefined"] else ""
        line = f"  {row['metric']:<34} {row['rank']}  {row['family']:<28} {mean}{std}"
        maintenance.print_line(options, f"{line} (n_folds={row['n_folds']}{lost})")
    return {"file": str(place / "summary.csv"), "rows": rows}


def reproduce_or_export(session: Session, options: Options) -> Outcome:
    """Train again and compare, or make a bundle."""
    (reference,) = options.arguments
    if options.export is None:
        return reproduce.reproduce(session, reference, trust=options.trust)
    target = Path(options.export).expanduser().resolve() if options.export else None
    return {"bundle": str(bundle.export(session, reference, target))}


def write_demo(config: ExperimentConfig, options: Options) -> Outcome:
    """Write the demo volumes where the user wants them."""
    folder, data = Path(*options.arguments).expanduser(), config.data
    made = phantom.make_phantoms(folder, n=data.demo_volumes, seed=data.demo_seed)
    return {"folder": str(made)}


def serve_pages(config: ExperimentConfig, options: Options) -> Outcome:
    """Serve Prefect's and MLflow's pages until Ctrl-C."""
    pages.serve(
        open_home(configs.environment().home),
        config.tracking,
        prefect_port=options.prefect_port,
        mlflow_port=options.mlflow_port,
    )
    return {}


def segment(session: Session, options: Options) -> Outcome:
    """Segment files with a registered model."""
    source, target = (Path(word).expanduser() for word in options.arguments)
    return predict.predict(session, source, target, upstream=options.upstream)


STORIES: dict[str, Callable[[Any, Options], Outcome]] = {
    "experiment": lambda session, _: experiment.experiment(session),
    "profile": lambda session, _: profile.outcome(session, profile.profile_data(session)),
    "review": review.run,
    "watch": lambda session, _: watch.watch(session),
    "data-changed": lambda session, _: watch.data_changed(session),
    "notify": lambda session, options: alerts.notify(session, *options.arguments),
    "train": train_and_refit,
    "search": lambda session, options: search.search(session, options.upstream),
    "analyse": lambda session, options: analyse.outcome(
        session, analyse.analyse(session, options.upstream)
    ),
    "deploy": lambda session, options: deploy.outcome(
        session, deploy.deploy(session, options.upstream)
    ),
    "plan": lambda session, options: plan.plan(session, options.upstream),
    "predict": segment,
    "lineage": show_lineage,
    "sql": query,
    "status": lambda session, options: maintenance.print_status(session, follow=options.follow),
    "summary": summarise,
    "settle": lambda session, options: maintenance.settle(session, options.arguments),
    "audit": lambda session, options: maintenance.audit_runs(session, options.arguments),
    "backfill": lambda session, options: maintenance.backfill_params(
        session, options.arguments, apply=options.apply
    ),
    "purge": lambda session, options: maintenance.purge_runs(
        session, options.arguments, apply=options.apply, force=options.force
    ),
    "rebase": maintenance.rebase_addresses,
    "reproduce": reproduce_or_export,
    "demo-data": write_demo,
    "ui": serve_pages,
}
"""Verb -> what carries it out, called with a session (or the settings alone) and the options."""
