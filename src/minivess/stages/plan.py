"""Show each automatic choice with its reason, the setting that overrides it, and its cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minivess.compute.reporting import plan_page
from minivess.grid.context import GridContext, measure_hardware, plan_model, restore
from minivess.grid.families import families
from minivess.grid.initial_weights import pin
from minivess.orchestration.session import Session
from minivess.stages import hours
from minivess.stages.dataset_scan import scan_dataset
from minivess.stages.profile import measure, print_summary, profile_for, summary
from minivess.stages.profile_text import pairing_lines


def plan(session: Session, upstream: Sequence[str] = ()) -> dict[str, Any]:
    """Check the data, resolve the plan of each model and forecast the grid; trains nothing.

    `upstream` is a profile to plan for in place of the folder as it is now.
    """
    session = pin(session)
    if upstream:
        profile = profile_for(session, upstream)
        cases = restore(session, profile)
    else:
        scan = scan_dataset(session)
        for line in pairing_lines(scan.root, scan.pairing):
            session.print(line)
        measured = measure(session, scan)
        profile = summary(session, scan, measured)
        cases = {case.case: case for case in measured.cases}
    print_summary(session, profile)
    session = hours.fitted(session, profile, cases, chain=True)
    asked = families(session.config, profile)
    for note in dict.fromkeys(note for family in asked for note in family.split.notes):
        session.print(f"  note: {note}")
    hardware = measure_hardware(session)
    session.print()
    session.print(plan_page.machine_text(hardware))
    grid = GridContext(session, profile, cases, hardware, models={})
    training = session.config.training
    found: dict[str, Any] = {
        "hardware": hardware.model_dump(), "max_epochs": training.max_epochs,
        "folds": training.folds, "models": {},
    }  # fmt: skip
    for name in dict.fromkeys(family.model.name for family in asked):
        mine = [family for family in asked if family.model.name == name]
        grid.models[name] = plan_model(session, profile, hardware, mine[0])
        cost = grid.probe(mine, cells=sum(len(family.cells) for family in asked))
        network, chosen, _ = grid.models[name]
        session.print()
        session.print(plan_page.text(name, chosen, cost))
        found["models"][name] = {
            "network": network.model_dump(mode="json"),
            "plan": chosen.model_dump(mode="json"),
            "forecast": cost.model_dump(mode="json"),
        }
    return found
