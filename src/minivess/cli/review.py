"""`minivess review ...`: print the queue of flagged volumes and record decisions about them."""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path
from typing import Any, cast, get_args

from minivess import config as configs
from minivess import names
from minivess.config import DEMO, ExperimentConfig
from minivess.contracts import Fault
from minivess.data.versions.versioning import recorded_places
from minivess.errors import UsageError
from minivess.home import Home
from minivess.orchestration import handoff
from minivess.orchestration.session import Session
from minivess.review import queue
from minivess.stages import dataset_identity
from minivess.text import several
from minivess.upkeep import listing

Outcome = dict[str, Any]
Options = argparse.Namespace
WORST = 3


def run(session: Session, options: Options) -> Outcome:
    """Carry out one action on the queue of one dataset."""
    action = options.action or "list"
    if action == "import":  # what was exported says which dataset it is of
        return take_back(session, options)
    dataset = dataset_of(options, session.config, session.home)
    return {"list": show, "export": export, "worst": worst}.get(action, decide)(
        session, options, dataset
    )


def dataset_of(options: Options, config: ExperimentConfig, home: Home) -> str:
    """The dataset asked for: by name, by data.root, or the only one of this home."""
    known = queue.datasets(home)
    if options.dataset and config.data.root:
        raise UsageError(
            "--dataset and data.root both say which dataset is meant.",
            remedy="leave out one of the two",
        )
    if not options.dataset:
        dataset_identity.require_here(home, config)
    if options.dataset or config.data.root or config.data.name:
        return str(options.dataset or config.dataset)
    if len(known) == 1:
        return known[0]
    if not known:
        raise UsageError(
            f"No dataset was profiled in {home.root}, so there is nothing to review.",
            remedy="minivess profile data.root=/path/to/the/data",
        )
    raise UsageError(
        f"There are several datasets: {', '.join(known)}.",
        remedy=f"minivess review list --dataset {shlex.quote(known[0])}",
    )


def show(session: Session, options: Options, dataset: str) -> Outcome:
    """Print the queue, oldest findings first, with the commands that decide."""
    known = queue.entries(session.home, dataset)
    shown = [entry for entry in known if options.all or entry.is_open]
    for entry in shown:
        state = "open" if entry.is_open else entry.verdict or "nothing found"
        session.print(f"{entry.case}   {state}")
        for finding in entry.findings:
            session.print(f"  {finding.severity} {finding.code}: {finding.message}")
        for made in entry.decisions:
            what = f" {made.role} {made.file}" if made.role else ""
            session.print(f"  {made.at[:16]} {made.verdict}{what} by {made.who}: {made.why}")
    waiting = sum(entry.is_open for entry in known)
    session.print(f"{dataset}: {waiting} of {several(len(known), 'volume')} wait for a decision")
    if waiting:
        decide_so = queue.command("accept", dataset)
        session.print(f"  {decide_so}; all that can be done: minivess help review")
    volumes = [
        entry.model_dump(mode="json", include={"case", "findings", "decisions"})
        | {"verdict": entry.verdict, "open": entry.is_open}
        for entry in shown
    ]
    return {"dataset": dataset, "open": waiting, "volumes": volumes}


def decide(session: Session, options: Options, dataset: str) -> Outcome:
    """Record one decision about each volume named."""
    from minivess.review.decide import decide as record_decision

    verdict, cases = cast(queue.Verdict, options.action), options.arguments
    given = {role: Path(file) for role in get_args(queue.Role) if (file := vars(options)[role])}
    entries = [queue.find(session.home, dataset, case) for case in cases]
    for entry in entries:
        record_decision(
            session.home, entry, verdict, who=options.who, why=options.why or "",
            replacements=given,
        )  # fmt: skip
        session.print(f"  {entry.case}: {verdict}")
    print_next(session, dataset)
    return {"dataset": dataset, "decided": cases, "verdict": verdict}


def export(session: Session, options: Options, dataset: str) -> Outcome:
    """Write volumes for an annotation tool: those named, else those that wait."""
    from minivess.review import exchange

    folder, cases = Path(options.arguments[0]).expanduser(), options.arguments[1:]
    if cases and options.all:
        raise UsageError("Volumes are named, and --all is given.", remedy="leave out one of both")
    marks = _marks(session, options)
    cases = cases or list(dict.fromkeys(one.case for one in marks) if not options.all else ())
    entries = [queue.find(session.home, dataset, case) for case in cases] or [
        entry for entry in queue.entries(session.home, dataset) if options.all or entry.is_open
    ]
    if not entries:
        raise UsageError(
            f"No volume of {dataset} waits for a decision.",
            remedy="name the volumes, or export every one with --all",
        )
    if options.tool == "label-studio":
        written = exchange.to_label_studio(session.home, entries, folder)
    else:
        written = exchange.to_slicer(session.home, entries, folder, marks)
    session.print(f"  {folder}: {', '.join(written)}")
    if left := [entry.case for entry in entries if entry.case not in written]:
        session.print(f"  left out, their images cannot be read: {', '.join(left)}")
    _print_import(session, str(folder))
    return {"dataset": dataset, "folder": str(folder), "cases": written}


def _print_import(session: Session, folder: str) -> None:
    session.print(f"  then: minivess review import {shlex.quote(folder)} --why '...'")


def worst(session: Session, options: Options, dataset: str) -> Outcome:
    """Write the volumes that the champion segments worst out of fold, with marks of its faults.

    Raises:
        UsageError: the number is none.
        StoreError: the dataset has no analysis, or the one given is of other data.
    """
    from minivess.review import exchange

    folder, *number = options.arguments
    if number and not (number[0].isdigit() and int(number[0])):
        raise UsageError(
            f"{number[0]!r} is no number of volumes.", remedy=f"minivess review worst {folder} 3"
        )
    session.need_store()
    named = session.with_config(configs.changed(session.config, {"data.name": dataset}))
    rows = listing.rows(session.store, [names.ANALYSIS])
    newest = [r["run_id"] for r in rows if (r["dataset"], r["status"]) == (dataset, "FINISHED")]
    found = handoff.receive_analysis(named, options.upstream or newest[:1])
    judged = {one.case: one.values["dice"] for one in found.winner.volumes}
    cases = sorted(judged, key=lambda case: (judged[case] is not None, judged[case] or 0.0))
    cases = cases[: int(number[0]) if number else WORST]
    for case in cases:
        dice = judged[case]
        session.print(f"  {case}: Dice {'undefined' if dice is None else format(dice, '.3f')}")
    entries = [queue.find(session.home, dataset, case) for case in cases]
    written = exchange.to_slicer(session.home, entries, Path(folder).expanduser(), found.faults)
    session.print(
        f"  correct: {folder.rstrip('/')}/scene.mrml in 3D Slicer, or its images/ with labels/ in "
        "napari; save each label over its file"
    )
    _print_import(session, folder)
    network = _network(session, found.champion.run_id)
    again = [*_own_data(session, dataset), *network]
    again.append(f"training.init={found.experiment}@champion")
    if found.experiment != dataset:
        again.append(f"name={found.experiment}")
    session.print(f"  and: {session.command('experiment', *again)}   (begins with its weights)")
    return {"dataset": dataset, "folder": folder, "cases": written}


def _network(session: Session, run_id: str) -> list[str]:
    """The settings of a champion's network, without which its weights do not fit."""
    run = handoff.first_member(session, session.store.get(run_id))
    text = session.store.read_text(run.run_id, "config/experiment_config.json")
    asked = json.loads(text).get("model", {})
    return [configs.word(f"model.{name}", value) for name, value in asked.items()]


def _marks(session: Session, options: Options) -> tuple[Fault, ...]:
    """Breaks and merges of the analysis named, if one is.

    Raises:
        UsageError: it found none, or the tool shows none.
    """
    if options.faults is None:
        return ()
    if options.tool == "label-studio":
        raise UsageError(
            "Label Studio shows projections, and --faults marks places in volumes.",
            remedy="leave out one of --as and --faults",
        )
    session.need_store()
    found = handoff.receive_analysis(session, [options.faults]).faults
    if not found:
        raise UsageError(
            f"The analysis {options.faults} found no breaks and merges.",
            remedy="`minivess analyse` makes a new one, if an earlier release made this",
        )
    return found


def take_back(session: Session, options: Options) -> Outcome:
    """Read decisions back from an annotation tool."""
    from minivess.review import exchange

    place, why = Path(*options.arguments).expanduser(), options.why or "corrected in 3D Slicer"
    taken, left = exchange.read_back(session.home, place, who=options.who, why=why)
    session.print(f"  {len(taken)} decided: {', '.join(taken) or 'none'}")
    if left:
        why_left = "no verdict, a fix without a file, changed since, another name"
        session.print(f"  left as they are ({why_left}): {', '.join(left)}")
    if taken:
        print_next(session, exchange.dataset_of(place))
    return {"decided": taken, "left": left}


def print_next(session: Session, dataset: str) -> None:
    """Print the command that makes a data version of the decisions."""
    own = _own_data(session, dataset)
    again = session.command("profile", *own) if own else "minivess profile"
    session.print(f"  then: {again}   (makes a new data version of what was decided)")


def _own_data(session: Session, dataset: str) -> tuple[str, ...]:
    """The setting that names a dataset; the demo's needs none."""
    place = recorded_places(session.home).get(dataset)
    return (f"data.root={place}",) if place and dataset != DEMO else ()
