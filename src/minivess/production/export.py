"""Write a registered model as one file that is used without the store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minivess import names
from minivess.data.profiling.domain import domain_of
from minivess.errors import UsageError
from minivess.orchestration import handoff
from minivess.orchestration.session import Session
from minivess.production import predict
from minivess.stages import dataset_identity
from minivess.stages.deploy import download_model
from minivess.text import several, slug

if TYPE_CHECKING:
    from minivess.serving.portable import Format


def export(
    session: Session, target: Path, to: Format, upstream: Sequence[str] = ()
) -> dict[str, Any]:
    """Write a model to FILE.zip in the format of other programs.

    Args:
        upstream: a run id, NAME@alias or NAME/version; default, the model of the settings.

    Raises:
        UsageError: the file exists, or is no zip by its name.
    """
    from minivess.serving import model_record, portable

    if target.suffix != ".zip" or target.exists():
        what = "exists already" if target.exists() else "does not end in .zip"
        raise UsageError(f"{target} {what}.", remedy="name a new file that ends in .zip")
    if not upstream:
        dataset_identity.require(session)
    chosen = predict.choose(session, upstream)
    session.print(f"Export    {predict.format_model(chosen)}")
    trained, profile = (
        download_model(session, chosen.training),
        handoff.profile_used(session, chosen.training),
    )
    lineage = {
        names.UPSTREAM_TRAINING: chosen.version.run_id,
        names.UPSTREAM_PROFILE: str(profile.run_id),
        names.DATASET_HASH: profile.dataset_hash,
    }
    model = model_record.ServedModel.of(
        trained.composition, name=slug(chosen.version.name), version=chosen.version.version,
        classes=profile.classes, lineage=lineage, domain=domain_of(profile),
    )  # fmt: skip
    card = f"# {model.label}\n\n{predict.format_model(chosen)}\n"
    portable.write(target, to, model, trained.checkpoints, card)
    session.print(f"  {target}  ({several(len(trained.checkpoints), 'network')}, {to})")
    session.print(f"  on any machine: minivess predict IN OUT --model {target.name}")
    return {"file": str(target), "format": to, "model": model.label}
