"""`minivess predict`: which model segments, and what becomes of each file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flows import handoff
from flows.session import Session
from minivess import names
from minivess.errors import StoreError


def predict(
    session: Session, source: Path, target: Path, *, upstream: Sequence[str] = ()
) -> dict[str, Any]:
    """Segment files with the model in production, else the champion."""
    from minivess import networks
    from minivess.serving import export, predict
    from minivess.tracking import model, registry

    try:
        version = registry.by_alias(
            session.store, session.config.experiment, names.PRODUCTION_ALIAS
        )
    except StoreError:
        version = registry.by_alias(session.store, session.config.experiment, names.CHAMPION_ALIAS)
    folder = session.store.download(
        version.run_id, names.MODEL_ARTIFACT, session.home.served / "champions" / version.run_id
    )
    network, window, checkpoint = model.parts(folder)
    onnx = folder / "model.onnx"
    if not onnx.is_file():
        export.to_onnx(network, checkpoint, onnx)
    written = predict.predict(
        source,
        target,
        forward=export.forward(onnx),
        window=window,
        divisor=networks.divisor(network),
        in_channels=network.in_channels,
        classes=handoff.profile_of(
            session, session.store.get(version.run_id).params[names.UPSTREAM_PROFILE]
        ).classes,
    )
    for path in written:
        session.say(f"  {path}")
    return {
        "model": f"{version.name}/{version.version}",
        "files": [str(path) for path in written],
    }
