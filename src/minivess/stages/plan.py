"""`plan`: every automatic choice, why it is so, the line that overrides it, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from minivess.contracts import DatasetProfile
from minivess.grid.context import GridContext, measure_hardware, plan_model, restore
from minivess.grid.families import families
from minivess.orchestration.session import Session
from minivess.stages.dataset_scan import Survey, look
from minivess.stages.profile import measure, profile_for
from minivess.stages.profile_text import show, tell

if TYPE_CHECKING:
    from minivess.data.profiling.profile import Measured


def plan(session: Session, upstream: Sequence[str] = ()) -> dict[str, Any]:
    """Check the data, resolve the plan of each model and forecast the grid; trains nothing.

    `upstream` is a profile to plan for in place of the folder as it is now.
    """
    from minivess.compute.reporting import plan_page

    if upstream:
        profile = profile_for(session, upstream)
        cases = restore(session, profile)
    else:
        survey = look(session)
        show(session, survey.root, survey.pairing)
        measured = measure(session, survey)
        profile = unversioned_profile(session, survey, measured)
        cases = {case.case: case for case in measured.cases}
    tell(session, profile)
    wanted = families(session.config, profile)
    for note in dict.fromkeys(note for family in wanted for note in family.split.notes):
        session.say(f"  note: {note}")
    hardware = measure_hardware(session)
    session.say()
    session.say(plan_page.machine_text(hardware))
    grid = GridContext(session, profile, cases, hardware, models={})
    found: dict[str, Any] = {"hardware": hardware.model_dump(), "models": {}}
    for name in dict.fromkeys(family.model.name for family in wanted):
        mine = [family for family in wanted if family.model.name == name]
        grid.models[name] = plan_model(session, profile, hardware, mine[0])
        cost = grid.probe(mine)
        network, chosen, _ = grid.models[name]
        session.say()
        session.say(plan_page.text(name, chosen, cost))
        found["models"][name] = {
            "network": network.model_dump(mode="json"),
            "plan": chosen.model_dump(mode="json"),
            "forecast": cost.model_dump(mode="json"),
        }
    return found


def unversioned_profile(
    session: Session, survey: Survey, measured: Measured | None = None
) -> DatasetProfile:
    """The dataset in numbers, measured but neither copied nor recorded."""
    from minivess.data.profiling import profile

    return profile.summarise(
        measured or measure(session, survey),
        dataset=session.config.dataset,
        dataset_path=survey.place,
        version=None,
        label_map=session.config.data.labels,
    )
