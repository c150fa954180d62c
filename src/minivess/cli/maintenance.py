"""Verbs that inspect and repair the store; those that change it need `--apply`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from minivess import config as configs
from minivess import home as homes
from minivess import names
from minivess.cli import board
from minivess.config import ExperimentConfig
from minivess.errors import StoreError
from minivess.orchestration import handoff, model_versions, publication
from minivess.orchestration.session import Session
from minivess.runtime import liveness, output
from minivess.text import format_duration, format_size, several
from minivess.tracking.journal import uploader
from minivess.tracking.run import dead_runs
from minivess.tracking.store.sql_reader import is_database
from minivess.tracking.store.store import open_store
from minivess.upkeep import audit, backfill, purge, rebase, status

Outcome = dict[str, Any]
Item = TypeVar("Item")

SHOWN = 20


# --- status -------------------------------------------------------------------------------


def print_status(session: Session, *, follow: bool) -> Outcome:
    """Print what runs, what is unfinished and what is out of date; with `follow` until Ctrl-C."""
    # The session's own store would end dead runs when it is opened.
    store = open_store(session.home, session.config.tracking)
    if follow:
        board.follow(session, lambda: status.look(store), partial(_status_lines, session))
    found = status.look(store)
    for line in _status_lines(session, found):
        session.print(line)
    return {
        "runs": found.runs,
        "running": [
            {
                "run_id": one.record.run_id, "name": one.record.name, "where": one.where,
                "seconds": one.seconds, "epochs": one.epochs, "eta_s": one.eta_s,
            }
            for one in found.running
        ],
        "unfinished": [record.run_id for record in found.unfinished],
        "stale": found.stale,
    }  # fmt: skip


def _status_lines(session: Session, found: Any) -> list[str]:
    lines = [several(found.runs, "run")]
    holder = homes.holds(session.home.root / "lock")
    if holder is not None:
        lines.append(f"  `{holder['what']}` works here (pid {holder['pid']})")
    waiting = len(list(session.home.journal.glob("*.jsonl")))
    if waiting:
        lines.append(f"  {several(waiting, 'run', 'are')} open or in the journal for MLflow")
    for one in found.running:
        epochs = f"  epoch {one.epochs[0]}/{one.epochs[1]}" if one.epochs else ""
        eta = f"  about {format_duration(one.eta_s)} left" if one.eta_s is not None else ""
        since = f"{one.record.name}  {format_duration(one.seconds)}  {one.where}"
        dice = f"  val_dice {board.curve(one.curve)}" if one.curve else ""
        lines.append(f"  runs       {since}{epochs}{eta}{dice}")
    lines += [
        f"  unfinished {r.name}  {r.status}  {r.tags.get(names.ERROR_TYPE, '')}  run {r.run_id}"
        for r in found.unfinished[:SHOWN]
    ]
    return lines + more(found.unfinished) + [f"  stale      {what}" for what in found.stale]


def print_first(
    session: Session, items: Sequence[Item], lines_of: Callable[[Item], Iterable[str]]
) -> None:
    """Print the lines of the first items, and how many more there are."""
    for item in items[:SHOWN]:
        for line in lines_of(item):
            session.print(f"  {line}")
    for line in more(items):
        session.print(line)


def more(items: Sequence[object]) -> list[str]:
    """A line for what is not shown."""
    rest = len(items) - SHOWN
    return [f"  ... and {rest} more (--json lists all)"] if rest > 0 else []


def settle(session: Session, run_ids: Collection[str]) -> Outcome:
    """Upload journals, end dead runs in MLflow and Prefect, and the runs given.

    Every pointer, alias and missing model version is written again.
    """
    session.need_store()
    store = session.store
    settled = [*session.settled, *(dead_runs.end(store, run_id) for run_id in run_ids)]
    for record in dead_runs.elsewhere(store):
        host = record.tags.get(liveness.HOST, "another tool")
        end = session.command(f"settle {record.run_id}")
        session.print(f"  {record.name} runs on {host}; if not: {end}")
    flows = session.orchestrator.settle()
    pointers = []
    for one in _chains(session):
        found = publication.current(one)
        pointers += found
        try:
            _set_aliases(one, {pointer.kind for pointer in found})
        except StoreError as error:
            # One run that is gone keeps nothing else from being settled.
            session.print(f"  {error.problem} Then settle again: {error.remedy}")
    # The newest last: that is what `latest_...` means.
    pointers.sort(key=lambda pointer: pointer.rank)
    for pointer in pointers:
        publication.write(session, pointer)
    waiting = [pending.journal.uid for pending in uploader.of(store).pending()]
    session.print(
        f"  {several(len(settled), 'dead run')} and {several(len(flows), 'flow run')} settled, "
        f"{several(len(waiting), 'journal', 'wait')}, {several(len(pointers), 'pointer')} written"
    )
    return {
        "settled": [record.run_id for record in settled],
        "flow_runs": flows,
        "waiting": waiting,
        "pointers": {pointer.name: pointer.holds for pointer in pointers},
    }


def _chains(session: Session) -> list[Session]:
    """This session for each experiment, and each dataset without one, that the settings select."""
    store, asked = session.store, session.config
    profiles = store.search(kind=names.PROFILE, status="FINISHED")
    experiments = {
        (dataset, name) for name, datasets in store.experiments().items()
        if name not in names.OWN_EXPERIMENTS for dataset in datasets
    }  # fmt: skip
    profiled = {profile.param(names.DATASET_NAME) for profile in profiles}
    untrained = profiled - {dataset for dataset, _ in experiments}
    stated = asked.data.root is not None or asked.data.name is not None
    meant = [
        session.with_config(configs.changed(asked, {"data.name": dataset, "name": name}))
        for dataset, name in sorted(experiments | {(dataset, dataset) for dataset in untrained})
        if asked.name is None or name == asked.experiment
        if not stated or dataset == asked.dataset
    ]
    return meant or [session] * (stated or asked.name is not None)


def _set_aliases(session: Session, pointers: Collection[str]) -> None:
    """Set the aliases of model versions by the current runs."""
    if names.FAMILY in pointers:
        model_versions.register_families(session, handoff.receive_training(session))
    if names.ANALYSIS in pointers:
        analysis = model_versions.with_version(session, handoff.receive_analysis(session))
        model_versions.tag_champion(session, analysis)
    if names.DEPLOYMENT in pointers:
        deployed = handoff.receive_deployment(session)
        analysis = handoff.receive_analysis(session, [deployed.analysis_run_id])
        if (
            model_versions.with_version(session, analysis).champion.model_version
            == deployed.model_version
        ):
            model_versions.restore_production(session, deployed)
        else:
            session.print(
                f"  version {deployed.model_version} in production is gone: "
                + session.command("deploy", f"name={deployed.model_name}")
            )


# --- audit and backfill -------------------------------------------------------------------


def audit_runs(session: Session, run_ids: Collection[str]) -> Outcome:
    """Print runs that lack required fields; the exit code is 1 if there are any."""
    gaps = audit.audit(session.store, run_ids)
    print_first(
        session,
        gaps,
        lambda gap: [
            f"{gap.kind} {gap.name}, {gap.status}, run {gap.run_id}",
            f"  lacks {', '.join(gap.missing[:SHOWN])}",
            *more(gap.missing),
        ],
    )
    backfilled = session.command("backfill")
    count = several(len(gaps), "run", "lack")
    found = f"{count} what others rely on; older ones may get it: {backfilled}"
    session.print(f"  {found if gaps else 'all runs are whole'}")
    return {"gaps": [gap._asdict() for gap in gaps], "exit_code": 1 if gaps else 0}


def backfill_params(session: Session, run_ids: Collection[str], *, apply: bool) -> Outcome:
    """Print params that older runs can derive from their own artifacts; add them with `apply`."""
    additions = backfill.look(session.store, run_ids)
    print_first(
        session,
        additions,
        lambda one: [
            f"{one.name}, run {one.run_id}: {several(len(one.params), 'param')}",
            f"  {', '.join(sorted(one.params))}",
            *(f"  stays as it is: {line}" for line in one.differing),
        ],
    )
    if apply:
        backfill.apply(session.store, additions)
    total = sum(len(one.params) for one in additions)
    conclude(
        session,
        f"{several(total, 'param')} of {several(len(additions), 'run')}",
        "added",
        apply=apply,
    )
    return {"runs": [one._asdict() for one in additions], "applied": apply}


def conclude(session: Session, what: str, done: str, *, apply: bool) -> None:
    """Print what was done, or what `--apply` would do."""
    session.print(f"  {what} {done}" if apply else f"  {what} would be {done}; do it with --apply")


# --- purge and rebase ---------------------------------------------------------------------


def purge_runs(session: Session, run_ids: Collection[str], *, apply: bool, force: bool) -> Outcome:
    """Print deleted runs; remove them for good with `apply`, also needed ones with `force`."""
    doomed = purge.look(session.store, run_ids)
    print_first(
        session,
        doomed,
        lambda one: [
            f"{one.record.name}, run {one.record.run_id}: {format_size(one.size)}",
            *(f"  {'forced' if force else 'stays'}: needed by {by}" for by in one.needed_by[:1]),
        ],
    )
    gone = [one for one in doomed if force or not one.needed_by]
    if apply:
        purge.apply(session.store, gone, force=force)
    freed = sum(one.size for one in gone)
    conclude(session, f"{several(len(gone), 'run')}, {format_size(freed)}", "removed", apply=apply)
    return {
        "removed": [one.record.run_id for one in gone],
        "bytes": freed,
        "kept": {o.record.run_id: list(o.needed_by) for o in doomed if o not in gone},
        "applied": apply,
    }


def rebase_addresses(config: ExperimentConfig, options: argparse.Namespace) -> Outcome:
    """Rewrite artifact addresses after a move, of the whole home or from OLD to NEW.

    This is the only verb that a moved home opens for.
    """
    home, apply = homes.open_home(configs.environment().home, moved=True), options.apply
    with homes.lock(home.root / "lock", what="minivess rebase"):
        here = (str(home.last_root), str(home.root))
        old, new = options.arguments or here
        whole = (str(Path(old)), str(Path(new))) == here
        if old == new:
            output.print_for(options, "  nothing has moved")
            return {"moves": {}, "applied": False}
        store = open_store(home, config.tracking)
        step = rebase.apply if apply else rebase.look
        # A server keeps its own addresses: there, a moved home only says where it is now.
        moves = [] if whole and not is_database(store) else step(store, old, new)
        if apply and whole:
            home.workspace.unlink(missing_ok=True)
            home.mark_moved()
    for move in moves:
        output.print_for(options, f"  {move.addresses} in {move.column}")
    done = " rewritten" if apply else ": rewrite them with --apply"
    total = sum(move.addresses for move in moves)
    output.print_for(options, f"  {several(total, 'address')} from {old} to {new}{done}")
    return {"moves": {m.column: m.addresses for m in moves}, "applied": apply}
