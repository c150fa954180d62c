"""Compare the volumes that a served model got with those that it was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minivess import names
from minivess.orchestration import handoff
from minivess.orchestration.session import Session
from minivess.production.predict import choose
from minivess.stages import dataset_identity
from minivess.text import several, slug

LEAST, MOST = 20, 500
"""Requests that are needed, and those that are compared, the newest."""


def drift(session: Session, words: Sequence[str]) -> dict[str, Any]:
    """Print whether the requests drifted from the training volumes; the exit code is 1 if so.

    Args:
        words: `MODEL@alias` or `MODEL/version`; default, the model of the settings.
    """
    from minivess.serving import drift as tests
    from minivess.serving import package, request_log

    if not words:
        dataset_identity.require(session)
    chosen = choose(session, words)
    label = f"{package.bento_name(slug(chosen.version.name))}:{chosen.version.version}"
    reference = request_log.reference_of(handoff.profile_used(session, chosen.training))
    new = request_log.read(session.home.requests, label, MOST)
    session.print(f"Drift     {several(len(new), 'request')} to {label}, "
                  f"{several(len(reference), 'training volume')}")  # fmt: skip
    if len(new) < LEAST:
        session.print(f"  {LEAST} requests are needed; `minivess serve` stores their features")
        return {"model": label, "requests": len(new), "drifted": None, "exit_code": 0}
    found = tests.drift(reference, new, request_log.FEATURES)
    for place, (feature, p) in enumerate(found.features.items()):
        before, after = (float(np.median(rows[:, place])) for rows in (reference, new))
        mark = "  drifted" if feature in found.drifted else ""
        session.print(f"  {feature:<11} median {before:.4g} -> {after:.4g}   p {p:.3g}{mark}")
    session.print(f"  {'together':<11} p {found.together:.3g}")
    verdict = f"drifted: {', '.join(found.drifted)}" if found.drifted else "no drift"
    session.print(f"  {verdict} (false alarms in {found.level:.0%} of such comparisons at most)")
    if found.drifted:
        payload = {"model": label, "features": list(found.drifted), "requests": len(new)}
        session.orchestrator.emit(names.DRIFTED, f"minivess.model.{slug(label)}", payload)
    return {
        "model": label,
        "requests": len(new),
        "p": found.features | {"together": found.together},
        "drifted": list(found.drifted),
        "exit_code": 1 if found.drifted else 0,
    }
