"""`plan`: every automatic choice, why it is so, the line that overrides it, and what it costs."""

from __future__ import annotations

from typing import Any

from flows import grid, ground
from flows.profile_data import look, measure, show, tell
from flows.session import Session
from minivess.contracts import DatasetProfile


def plan(session: Session) -> dict[str, Any]:
    """Check the data, resolve the plan of each model and forecast the grid; trains nothing."""
    from minivess.compute import forecast, page

    profile = unversioned_profile(session)
    tell(session, profile)
    families = grid.families(session.config, profile)
    for note in families[0].split.notes:
        session.say(f"  note: {note}")
    hardware = ground.measure_hardware(session)
    found: dict[str, Any] = {"hardware": hardware.model_dump(), "models": {}}
    for name in dict.fromkeys(family.model.name for family in families):
        mine = [family for family in families if family.model.name == name]
        network, chosen = ground.planned(session, profile, hardware, mine[0])
        n_cells = sum(len(family.cells) for family in mine)
        loaded = ground.as_loaded(session, profile)
        cost = forecast.forecast(session.config, network, chosen, loaded, cells=n_cells)
        session.say()
        session.say(f"{name}, {n_cells} cells")
        session.say(page.text(chosen, cost, hardware))
        found["models"][name] = {
            "network": network.model_dump(mode="json"),
            "plan": chosen.model_dump(mode="json"),
            "forecast": cost.model_dump(mode="json"),
        }
    return found


def unversioned_profile(session: Session) -> DatasetProfile:
    """The dataset in numbers, measured but neither copied nor recorded."""
    from minivess.data import profile

    survey = look(session)
    show(session, survey.root, survey.pairing)
    return profile.summarise(
        measure(session, survey),
        dataset=session.config.dataset,
        dataset_path=survey.place,
        version=None,
        label_map=session.config.data.label_map,
    )
