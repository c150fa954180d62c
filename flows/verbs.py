"""What each verb does, between the command line and the stories."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from flows.session import Session, open_session
from minivess import config as configs
from minivess import files, names
from minivess.config import ExperimentConfig
from minivess.errors import UsageError
from minivess.home import open_home

Outcome = dict[str, Any]


def run(options: argparse.Namespace) -> Outcome:
    """Read the settings and carry out the verb; returns what `--json` prints."""
    verb: Callable[[argparse.Namespace, ExperimentConfig], Outcome] = {
        "experiment": run_experiment,
        "profile": run_profile,
        "review": run_review,
        "watch": run_watch,
        "data-changed": run_data_changed,
        "notify": run_notify,
        "train": run_train,
        "search": run_search,
        "analyse": run_analyse,
        "deploy": run_deploy,
        "plan": run_plan,
        "predict": run_predict,
        "lineage": run_lineage,
        "sql": run_sql,
        "summary": run_summary,
        "settle": run_settle,
        "status": run_status,
        "audit": run_audit,
        "backfill": run_backfill,
        "purge": run_purge,
        "rebase": run_rebase,
        "reproduce": run_reproduce,
        "demo-data": run_demo_data,
        "ui": run_ui,
    }[options.verb]
    configs.silence_telemetry()
    config = configs.load([Path(file) for file in options.files], options.words)
    return verb(options, config)


def session(
    options: argparse.Namespace, config: ExperimentConfig, *, lock: bool = True
) -> AbstractContextManager[Session]:
    """A session as the options ask for it."""
    env = configs.environment()
    return open_session(
        config,
        env,
        what=f"minivess {options.verb}",
        launched_by=env.launched_by,
        lock=lock,
        yes=options.yes,
        json=options.json,
    )


def arguments(options: argparse.Namespace, *wanted: str) -> list[str]:
    """The bare words of a verb, exactly as many as it takes."""
    if len(options.arguments) != len(wanted):
        raise UsageError(
            f"`minivess {options.verb}` takes {' '.join(wanted) or 'no bare words'}, "
            f"but got {options.arguments or 'none'}.",
            remedy=f"minivess {options.verb} {' '.join(wanted)}; settings are key=value",
        )
    found: list[str] = options.arguments
    return found


# --- the flows ----------------------------------------------------------------------------


def run_experiment(options: argparse.Namespace, config: ExperimentConfig) -> Outcome:
    """The four flows in order."""
    from flows.experiment import experiment

    arguments(options)
    with session(options, config) as opened:
        return experiment(opened)


def run_profile(options: argparse.Namespace, config: ExperimentConfig) -> Outcome:
    """Flow 1."""
    from flows.profile_data import profile_data

    arguments(options)
    with session(options, config) as opened:
        profile = profile_data(opened)
        return {
            "data_profile_run_id": profile.run_id,
            "dataset_hash": profile.dataset_hash,
            "n_volumes": profile.n_volumes,
            "quarantined": list(profile.quarantined),
            "reused": opened.reused,
        }


def run_review(options: argparse.Namespace, config: ExperimentConfig) -> Outcome:
    """The queue of flagged volumes."""
    from flows import reviewing

    with session(options, config, lock=False) as opened:
        return reviewing.run(options, config, opened.home, opened.say)


def run_watch(options: argparse.Namespace, config: ExperimentConfig) -> Outcome:
    """Poll the data until Ctrl-C."""
    from flows.watching import watch

    arguments(options)
    with session(options, config, lock=False) as opened:
        return watch(opened)


def run_data_changed(options: argparse.Namespace, config: ExperimentConfig) -> Outcome:
    """Announce new data once."""
    from flows.watching import data_changed

    arguments(options)
    with session(options, config, lock=False) as opened:
        return data_changed(opened)


def run_notify(options: argparse.Namespace, config: ExperimentConfig) -> Outcome:
    """Call a web address when a deployed flow fails."""
    from flows.notifying import notify

    (url,) = arguments(options, "URL")
    with session(options, config, lock=False) as opened:
        return notify(opened, url)


def run_train(options: argparse.Namespace, config: ExperimentConfig) -> Outcome:
    """Flow 2."""
    from flows.profile_data import profile_data
    from flows.refit import refit
    from flows.train import train

    arguments(options)
    with session(options, config) as opened:
        upstream = options.upstream
        if opened.store.away and not upstream:
            # The latest profile cannot be asked for, and making it again takes seconds.
            upstream = [profile_data(opened).run_id]
        result = train(opened, upstream)
        again = {} if config.training.refit == "none" else {"refit_run_id": refit(opened)}
        return again | {
            "experiment": result.experiment,
            "training_run_ids": list(result.run_ids),
            "data_profile_run_id": result.data_profile_run_id,
            "metrics": {family.run_name: family.metrics for family in result.families},
            "reused": opened.reused,
        }


def run_search(options: argparse.Namespace, config: ExperimentConfig) -> Outcome:
    """Settings tried one after another."""
    from flows.search import search

    arguments(options)
    with session(options, config) as opened:
        return search(opened, options.upstream)


def run_analyse(options: argparse.Namespace, config: ExperimentConfig) -> Outcome:
    """Flow 3."""
    from flows.analyse import analyse
    from flows.experiment import champion, report

    arguments(options)
    with session(options, config) as opened:
        result = analyse(opened, options.upstream)
        return {
            "analysis_run_id": result.run_id,
            "training_run_ids": list(result.training_run_ids),
            "champion": champion(result),
            "report": str(report(opened, str(result.run_id))),
            "reused": opened.reused,
        }


def run_deploy(options: argparse.Namespace, config: ExperimentConfig) -> Outcome:
    """Flow 4."""
    from flows.deploy import deploy

    arguments(options)
    with session(options, config) as opened:
        result = deploy(opened, options.upstream)
        return {
            "deployment_run_id": result.run_id,
            "model": f"{result.model_name}/{result.model_version}",
            "bento_tag": result.bento_tag,
            "parity": result.parity.model_dump(),
            "reused": opened.reused,
        }


# --- reading and upkeep -------------------------------------------------------------------


def run_plan(options: argparse.Namespace, config: ExperimentConfig) -> Outcome:
    """The adaptive decision and its forecast; trains nothing and records no run."""
    from flows.planning import plan

    arguments(options)
    with session(options, config, lock=False) as opened:
        return plan(opened)


def run_predict(options: argparse.Namespace, config: ExperimentConfig) -> Outcome:
    """Segment files with a registered model."""
    from flows.predicting import predict

    source, target = (Path(word).expanduser() for word in arguments(options, "IN", "OUT"))
    with session(options, config, lock=False) as opened:
        return predict(opened, source, target, upstream=options.upstream)


def run_lineage(options: argparse.Namespace, config: ExperimentConfig) -> Outcome:
    """From a run or model back to the data hash."""
    from minivess.tracking import lineage

    (reference,) = arguments(options, "REF")
    with session(options, config, lock=False) as opened:
        chain = lineage.walk(opened.store, reference)
        for record in chain:
            kind = record.tags.get(names.KIND, "?")
            opened.say(f"  {kind:<11} {record.run_id}  {record.status}  {record.name}")
        data_hash = chain[-1].params.get(names.DATASET_HASH)
        opened.say(f"  {'data':<11} {data_hash}")
        links = {record.run_id: opened.page_of(record.run_id) for record in chain}
        page = files.write_text(
            opened.home.reports / chain[0].run_id / "lineage.html", lineage.page(chain, links)
        )
        opened.say(f"  {'page':<11} {page}")
        return {
            "page": str(page),
            "chain": [
                {"kind": r.tags.get(names.KIND), "run_id": r.run_id, "status": r.status}
                for r in chain
            ],
            "dataset_hash": data_hash,
        }


def run_sql(options: argparse.Namespace, config: ExperimentConfig) -> Outcome:
    """Ask the workspace, brought up to date first."""
    from flows.analyse import refresh_workspace
    from minivess.analysis import workspace

    (query,) = arguments(options, "QUERY")
    with session(options, config, lock=False) as opened:
        refresh_workspace(opened)
        rows = workspace.query(opened.home.workspace, query)
        for row in rows:
            opened.say("  " + "  ".join(f"{key}={value}" for key, value in row.items()))
        return {"rows": rows}


def run_summary(options: argparse.Namespace, config: ExperimentConfig) -> Outcome:
    """The table of families, from the rows of their folds; MLflow is not asked."""
    from minivess.tracking import sheets

    arguments(options)
    place = sheets.folder(open_home(configs.environment().home), config.experiment)
    rows = sheets.summarise(place)
    for row in rows:
        std = "" if row["std"] is None else f" +- {row['std']:.4f}"
        (sys.stderr if options.json else sys.stdout).write(
            f"  {row['metric']:<34} {row['rank']}  {row['family']:<28} "
            f"{row['mean']:.4f}{std} (n_folds={row['n_folds']})\n"
        )
    return {"file": str(place / "summary.csv"), "rows": rows}


def run_settle(options: argparse.Namespace, config: ExperimentConfig) -> Outcome:
    """Replay journals, end dead runs, write every pointer and missing model anew from MLflow."""
    from flows import upkeep

    with session(options, config) as opened:
        return upkeep.settle(opened, options.arguments)


def run_status(options: argparse.Namespace, config: ExperimentConfig) -> Outcome:
    """What runs, what is unfinished, what is out of date."""
    from flows import upkeep

    arguments(options)
    with session(options, config, lock=False) as opened:
        return upkeep.status(opened, follow=options.follow)


def run_audit(options: argparse.Namespace, config: ExperimentConfig) -> Outcome:
    """Every run held against the contract."""
    from flows import upkeep

    with session(options, config, lock=False) as opened:
        return upkeep.audit(opened, options.arguments)


def run_backfill(options: argparse.Namespace, config: ExperimentConfig) -> Outcome:
    """Params that older runs lack."""
    from flows import upkeep

    with session(options, config, lock=options.apply) as opened:
        return upkeep.backfill(opened, options.arguments, apply=options.apply)


def run_purge(options: argparse.Namespace, config: ExperimentConfig) -> Outcome:
    """Deleted runs, removed for good."""
    from flows import upkeep

    with session(options, config, lock=options.apply) as opened:
        return upkeep.purge(opened, options.arguments, apply=options.apply, force=options.force)


def run_reproduce(options: argparse.Namespace, config: ExperimentConfig) -> Outcome:
    """A training run done again and compared, or made into a bundle."""
    from flows import reproduce, upkeep

    (what,) = arguments(options, "RUN_ID")
    with session(options, config) as opened:
        if options.export is None:
            return upkeep.reproduce(opened, what)
        target = Path(options.export).expanduser().resolve() if options.export else None
        return {"bundle": str(reproduce.export(opened, what, target))}


def run_rebase(options: argparse.Namespace, config: ExperimentConfig) -> Outcome:
    """Artifact addresses after a move; the only verb that a moved home opens for."""
    from flows import upkeep

    lines, outcome = upkeep.rebase(
        config, configs.environment(), options.arguments, apply=options.apply
    )
    (sys.stderr if options.json else sys.stdout).write("".join(f"{line}\n" for line in lines))
    return outcome


def run_demo_data(options: argparse.Namespace, config: ExperimentConfig) -> Outcome:
    """Write the demo volumes where the user wants them."""
    from minivess.data import phantom

    (folder,) = arguments(options, "DIR")
    made = phantom.generate(
        Path(folder).expanduser(), n=config.data.demo_volumes, seed=config.data.demo_seed
    )
    return {"folder": str(made)}


def run_ui(options: argparse.Namespace, config: ExperimentConfig) -> Outcome:
    """Both pages, until Ctrl-C."""
    from flows import servers

    arguments(options)
    home = open_home(configs.environment().home)
    servers.ui(
        home,
        config.tracking,
        prefect_port=options.prefect_port,
        mlflow_port=options.mlflow_port,
    )
    return {}
