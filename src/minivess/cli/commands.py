"""Carry out a verb: read its settings, open a session where it needs one, call its stage."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minivess import config as configs
from minivess import files, names
from minivess.cli.grammar import refuse_lone, refuse_unused
from minivess.config import ExperimentConfig
from minivess.errors import UsageError
from minivess.home import open_home
from minivess.runtime import output
from minivess.text import table
from minivess.verbs import VERBS

if TYPE_CHECKING:
    from minivess.orchestration.session import Session

Outcome = dict[str, Any]
SHOWN_ROWS = 100
Options = argparse.Namespace
Story = Callable[[Any, Options], Outcome]


def run(options: Options) -> Outcome:
    """Read the settings and carry out the verb; returns what `--json` prints."""
    configs.calm_libraries()
    config, row, story = settings(options), VERBS[options.verb], STORIES[options.verb]
    if row.opens == "nothing":
        return story(config, options)
    env = configs.environment()
    if options.deployed:
        story = send
    with room("orchestration.session").open_session(
        config,
        env,
        what=f"minivess {options.verb}",
        launched_by=env.launched_by,
        lock=(row.opens == "lock" and not options.deployed)
        or (row.opens == "lock to apply" and options.apply),
        yes=options.yes,
        json=options.json,
        quiet=options.quiet,
        words=[*map(str, options.files), *options.overrides],
    ) as session:
        _expand_ids(session, options)
        outcome: Outcome = story(session, options)
        return outcome


def _expand_ids(session: Session, options: Options) -> None:
    """Give run ids in full, in each option and argument that takes them."""
    options.upstream = session.full_ids(options.upstream)
    if options.faults:
        (options.faults,) = session.full_ids([options.faults])
    if VERBS[options.verb].takes_ids:
        options.arguments = session.full_ids(options.arguments)


def room(name: str) -> Any:
    """A module of minivess, imported by the verb that needs it: no verb waits for all stages."""
    return import_module(f"minivess.{name}")


def settings(options: Options) -> ExperimentConfig:
    """The settings that files, variables and overrides give.

    Raises:
        UsageError: an override that this verb does not use, or that the data make meaningless.
    """
    words = options.overrides
    if options.verb == "init":  # its argument is what data.root is elsewhere
        refuse_unused(options)
        words = [*words, f"data.root={options.arguments[0]}"]
    config = configs.load([Path(file) for file in options.files], words)
    if VERBS[options.verb].reads("training.losses"):
        configs.require_files(config)
    stages: tuple[str, ...] = ()
    if options.verb == "experiment":
        refitted = ("train",) if config.training.refit == "all" else ()
        stages = (*config.flows, *refitted)
    refuse_unused(options, stages)
    refuse_lone(options)
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
    train = room("stages.train")
    result = train.train(session, options.upstream)
    refitted = session.config.training.refit != "none"
    again = {"refit_run_id": room("stages.refit").refit(session)} if refitted else {}
    return {**again, **train.outcome(session, result)}


def show_lineage(session: Session, options: Options) -> Outcome:
    """Print the chain from a run or model back to the data hash, and write its page."""
    lineage = room("upkeep.lineage")
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
    """Ask DuckDB over all runs, brought up to date first; or print its schema."""
    workspace = room("analysis.workspace")
    if options.schema:
        session.print(workspace.schema())
        return {"tables": workspace.TABLES, "views": list(workspace.VIEWS)}
    if not options.arguments:
        raise UsageError(
            "`minivess sql` was given no query.",
            remedy="minivess sql 'select * from leaderboard', or minivess sql --schema",
        )
    room("stages.analyse").refresh_workspace(session)
    rows = workspace.query(session.home.workspace, *options.arguments)
    for line in table([rows[0], *map(_cells, rows[:SHOWN_ROWS])]) if rows else ():
        session.print(f"  {line}")
    if len(rows) > SHOWN_ROWS:
        session.print(f"  {SHOWN_ROWS} of {len(rows)} rows are shown; --json prints all")
    elif not rows:
        session.print("  no rows")
    return {"rows": rows}


def summarise(config: ExperimentConfig, options: Options) -> Outcome:
    """Print the table of configurations from the files of their folds; MLflow is not asked."""
    metric_files, home = room("tracking.run.metric_files"), open_home(_home(), reading=True)
    place = metric_files.folder(home, config.experiment)
    rows = metric_files.summarise(place)
    for row in rows:
        std = "" if row["std"] is None else f" +- {row['std']:.4g}"
        mean = "-" if row["mean"] is None else f"{row['mean']:.4g}"
        lost = f", {row['n_undefined']:.0f} undefined" if row["n_undefined"] else ""
        line = f"  {row['metric']:<34} {row['rank']}  {row['family']:<28} {mean}{std}"
        output.print_for(options, f"{line} (n_folds={row['n_folds']}{lost})")
    return {"file": str(place / "summary.csv"), "rows": rows}


def _cells(row: dict[str, Any]) -> list[object]:
    """A row on a screen: fractions to four digits; `--json` has them whole."""
    return [
        "NULL" if value is None else f"{value:.4g}" if isinstance(value, float) else value
        for value in row.values()
    ]


def reproduce_or_export(session: Session, options: Options) -> Outcome:
    """Train again and compare, or make a bundle."""
    (reference,) = options.arguments
    if options.export is None:
        again: Outcome = room("reproduction.reproduce").reproduce(
            session, reference, trust=options.trust
        )
        return again
    target = Path(options.export).expanduser().resolve() if options.export else None
    return {"bundle": str(room("reproduction.bundle").export(session, reference, target))}


def write_demo(config: ExperimentConfig, options: Options) -> Outcome:
    """Write the demo volumes where the user wants them."""
    folder, data = Path(*options.arguments).expanduser(), config.data
    made = room("demo.phantom").make_phantoms(
        folder, n=data.demo_volumes, seed=data.demo_seed, like=options.like
    )
    return {"folder": str(made)}


def send(session: Session, options: Options) -> Outcome:
    """Send a command to a work pool in place of carrying it out."""
    sent: Outcome = room("orchestration.submission").submit(
        session, options.verb, upstream=options.upstream, pool=options.pool, detach=options.detach
    )
    return sent


def segment(session: Session, options: Options) -> Outcome:
    """Segment files with a registered model."""
    source, target = (Path(word).expanduser() for word in options.arguments)
    stage = room("production.predict")
    if options.measure:  # before the work, not after it
        room("morphometry.mask_files").refuse_occupied(stage.folder_of(target))
    masks: Outcome = stage.predict(
        session, source, target, upstream=options.upstream, url=options.url,
        model=Path(options.model).expanduser() if options.model else None,
    )  # fmt: skip
    if options.measure:
        masks["measures"] = stage.measure(session, masks["files"], target)
    return masks


def measure(config: ExperimentConfig, options: Options) -> Outcome:
    """Measure the vessels of masks."""
    mask_files = room("morphometry.mask_files")
    source, *rest = (Path(word).expanduser() for word in options.arguments)
    rows = mask_files.measure(source, rest[0] if rest else None, config.data)
    for line in mask_files.summary(rows):
        output.print_for(options, line)
    if rest:
        output.print_for(options, f"  {rest[0] / mask_files.TABLE}, with the graphs beside it")
    return {"folder": str(rest[0]) if rest else None, "measures": rows}


def serve_model(session: Session, options: Options) -> Outcome:
    """Serve a model, or say or end what is served."""
    stage = room("production.serve")
    outcome: Outcome = {}
    if options.action:
        outcome = {"status": stage.status, "stop": stage.stop}[options.action](session)
    elif options.detach:
        stage.wanted(session, options.arguments)  # a mistake is said here, not in a log
        where = ("--host", options.host, "--port", str(options.port))
        words = (*options.arguments, *options.files, *options.overrides, *where)
        outcome = stage.detach(session, words, options.port)
    else:
        stage.serve(session, options.arguments, host=options.host, port=options.port)
    return outcome


def move_production(session: Session, options: Options) -> Outcome:
    """Promote a version, or roll back to one; without a model, show the history."""
    stage, words = room("production.promotion"), options.arguments
    outcome: Outcome
    if options.verb == "promote" and not words:
        outcome = stage.history(session)
    else:
        act = stage.promote if options.verb == "promote" else stage.rollback
        outcome = act(session, *words, who=options.who, why=options.why)
    return outcome


def compare(session: Session, options: Options) -> Outcome:
    """Compare two versions of a model, two experiments, or two analyses."""
    stage, words = room("reproduction.experiments"), session.full_ids(options.arguments)
    if not stage.are_analyses(session, words):
        stage = room("production.promotion")
    outcome: Outcome = stage.compare(session, *words)
    return outcome


def open_page(session: Session, options: Options) -> Outcome:
    """Open a page that is named; `report` names none, which is the report."""
    shown: Outcome = room("cli.opening").show(session, options)
    return shown


def _home() -> Path:
    return configs.environment().home


STORIES: dict[str, Story] = {
    "experiment": lambda session, _: room("stages.experiment").experiment(session),
    "profile": lambda session, _: (stage := room("stages.profile")).outcome(
        session, stage.profile_data(session)
    ),
    "review": lambda session, options: room("cli.review").run(session, options),
    "watch": lambda session, _: room("stages.watch").watch(session),
    "data-changed": lambda session, _: room("stages.watch").data_changed(session),
    "notify": lambda session, options: room("orchestration.alerts").notify(
        session, *options.arguments
    ),
    "train": train_and_refit,
    "search": lambda session, options: room("stages.search").search(
        session, options.upstream, explain=options.explain
    ),
    "analyse": lambda session, options: (stage := room("stages.analyse")).outcome(
        session, stage.analyse(session, options.upstream)
    ),
    "deploy": lambda session, options: (stage := room("stages.deploy")).outcome(
        session, stage.deploy(session, options.upstream)
    ),
    "init": lambda session, _: room("stages.init").init(session),
    "plan": lambda session, options: room("stages.plan").plan(session, options.upstream),
    "predict": segment,
    "measure": measure,
    "export": lambda session, options: room("production.export").export(
        session, Path(options.arguments[0]).expanduser(), options.to, options.upstream
    ),
    "serve": serve_model,
    "promote": move_production,
    "rollback": move_production,
    "drift": lambda session, options: room("production.drift").drift(session, options.arguments),
    "compare": compare,
    "share": lambda session, options: room("production.share").share(
        session, Path(*options.arguments), options.upstream, volumes=options.volumes
    ),
    "lineage": show_lineage,
    "sql": query,
    "status": lambda session, options: room("cli.maintenance").print_status(
        session, follow=options.follow
    ),
    "doctor": lambda config, options: room("cli.doctor").run(config, options),
    "runs": lambda session, options: room("cli.runs").show(
        session, options.arguments, every=options.all
    ),
    "open": open_page,
    "report": open_page,
    "delete": lambda session, options: room("cli.runs").delete(
        session, options.arguments, yes=options.yes, force=options.force
    ),
    "disk": lambda config, options: room("cli.disk").show(config, options),
    "clean": lambda session, options: room("cli.disk").clean(
        session, options.arguments, apply=options.apply
    ),
    "settings": lambda config, options: room("cli.reference").settings(config, options),
    "explain": lambda config, options: room("cli.reference").explain(config, options),
    "new": lambda config, options: room("cli.new").write(config, options),
    "completion": lambda config, options: room("cli.reference").completion(config, options),
    "summary": summarise,
    "settle": lambda session, options: room("cli.maintenance").settle(session, options.arguments),
    "audit": lambda session, options: room("cli.maintenance").audit_runs(
        session, options.arguments
    ),
    "backfill": lambda session, options: room("cli.maintenance").backfill_params(
        session, options.arguments, apply=options.apply
    ),
    "purge": lambda session, options: room("cli.maintenance").purge_runs(
        session, options.arguments, apply=options.apply, force=options.force
    ),
    "rebase": lambda config, options: room("cli.maintenance").rebase_addresses(config, options),
    "reproduce": reproduce_or_export,
    "demo-data": write_demo,
    **dict.fromkeys(
        ("ui", "up", "down", "restart", "logs", "health"),
        lambda config, options: room("cli.servers").carry_out(config, options),
    ),
}
"""Verb -> what carries it out, called with a session (or the settings alone) and the options."""
