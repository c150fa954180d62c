"""Gather pages, tables, figures and facts of an analysis in one folder that names no machine."""

from __future__ import annotations

import html
import re
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minivess import files, names
from minivess.analysis import formatting
from minivess.contracts import AnalysisResult, DatasetProfile, RunRecord
from minivess.errors import StoreError, UsageError
from minivess.orchestration import handoff
from minivess.orchestration.session import Session
from minivess.production.share import checklist
from minivess.production.share import volumes as copies
from minivess.runtime import templates
from minivess.runtime.archives import MANIFEST, Archive, hashes
from minivess.stages import dataset_identity
from minivess.text import several
from minivess.upkeep import lineage

INDEX = Path(__file__).with_name("index.html.j2")
CARD, LINEAGE, SOFTWARE = "model_card.md", "lineage.html", "software.txt"
TEXTS = (".html", ".md", ".csv", ".tex", ".txt", ".json")
OWN = "name a new or empty folder; what was changed by hand in a shared one, keep elsewhere"
FIRST = ("dice", "cldice", names.PRIMARY)


def share(
    session: Session, target: Path, upstream: Sequence[str] = (), *, volumes: bool = False
) -> dict[str, Any]:
    """Write the folder of an analysis, or write it again where it stands.

    Args:
        upstream: id of an analysis run; default, the latest of the experiment.
        volumes: also copy images, ground truth and the champion's masks out of fold.

    Raises:
        UsageError: the folder holds other files.
        StoreError: the analysis is of an earlier release, or masks are not kept any more.
    """
    session.need_store()
    if not upstream:
        dataset_identity.require(session)
    analysis = handoff.receive_analysis(session, upstream)
    target = target.expanduser().resolve()
    require_own(target, str(analysis.run_id))
    draft = target.with_name(f".{uuid.uuid4().hex[:8]}-{target.name}")
    try:
        missing = _fill(session, analysis, draft, volumes=volumes)
        _replace(target, draft)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    written = sorted(hashes(target))
    session.print(f"  {target / 'index.html'}  ({several(len(written), 'file')})")
    session.print(f"  for the author to fill in: {several(len(missing), 'item')} of checklist.html")
    if volumes:
        session.print("  it holds the volumes: share it only with people who may see them")
    return {
        "folder": str(target),
        "analysis_run_id": analysis.run_id,
        "files": written,
        "missing": missing,
    }


def require_own(folder: Path, run_id: str) -> None:
    """Refuse a folder that holds anything but what was shared of this analysis.

    Raises:
        UsageError: a file of somebody else, one changed by hand, or another analysis.
    """
    if folder.is_file():
        raise UsageError(f"{folder} is a file.", remedy=OWN)
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not (folder / MANIFEST).is_file():
        raise UsageError(f"{folder} holds other files.", remedy=OWN)
    Archive(folder, UsageError, OWN).check(folder)
    shared = files.read_json(folder / MANIFEST).get(names.UPSTREAM_ANALYSIS)
    if shared != run_id:
        raise UsageError(
            f"{folder} holds what was shared of analysis {shared}, and {run_id} is asked for.",
            remedy=f"name another folder, or --upstream {shared}",
        )


def _replace(target: Path, draft: Path) -> None:
    """Put the draft in the place of the target."""
    former = draft.with_name(f"{draft.name}-former")
    if target.exists():
        target.rename(former)
    draft.rename(target)
    shutil.rmtree(former, ignore_errors=True)


def _fill(session: Session, analysis: AnalysisResult, folder: Path, *, volumes: bool) -> list[str]:
    """Write all files; return the numbers of the items that are missing in the checklist."""
    store, run_id = session.store, str(analysis.run_id)
    if names.METHODS_ARTIFACT not in store.artifacts(run_id, "report"):
        raise StoreError(
            f"Analysis {run_id} has no {names.METHODS_ARTIFACT}: an earlier release made it.",
            remedy=f"run `{session.command('analyse')}` again, which trains nothing",
        )
    for part in ("report", "tables", "figures"):
        store.download(run_id, part, folder)
    training = store.get(handoff.first_member(session, store.get(analysis.champion.run_id)).run_id)
    profile = handoff.profile_used(session, training)
    served = store.latest(
        experiment=names.EXPERIMENTS[names.DEPLOYMENT],
        kind=names.DEPLOYMENT,
        params={names.UPSTREAM_ANALYSIS: run_id},
    )
    if served is not None:
        store.download(served.run_id, CARD, folder)
    files.write_text(folder / LINEAGE, _chain(session, served.run_id if served else run_id))
    text = store.read_text(training.run_id, "environment/frozen_deps.txt")
    files.write_text(folder / SOFTWARE, text)
    rows = [one.model_dump(exclude={"percentiles", "converted"}) for one in profile.volumes]
    files.write_csv(folder / "tables" / "data.csv", rows)
    if volumes:
        copies.copy(session, analysis, profile, folder / "volumes")
    methods = (folder / names.METHODS_ARTIFACT).read_text(encoding="utf-8").split("\n\n")
    items = checklist.write(
        folder, analysis=analysis, profile=profile, params=training.params, methods=methods,
        served=served is not None, volumes=volumes,
    )  # fmt: skip
    card = (folder / CARD).read_text(encoding="utf-8") if served else ""
    _write_index(
        folder,
        analysis,
        profile,
        training,
        methods=methods,
        card=card,
        items=items,
        volumes=volumes,
    )
    _hide(folder, session, profile)
    manifest = {names.UPSTREAM_ANALYSIS: run_id, "sha256": hashes(folder)}
    files.write_json(folder / MANIFEST, manifest)
    return [f"{item.standard} {item.number}" for item in items if not item.answer]


def _chain(session: Session, run_id: str) -> str:
    """The lineage page without links and without names of machines."""
    chain = lineage.walk(session.store, run_id)
    plain = [
        record.replace(params={k: v for k, v in record.params.items() if k != "sys_hostname"})
        for record in chain
    ]
    return lineage.page(plain, {})


def _write_index(
    folder: Path,
    analysis: AnalysisResult,
    profile: DatasetProfile,
    training: RunRecord,
    **more: Any,
) -> None:
    unit = formatting.distance_unit(profile)
    best = analysis.winner
    cards = [
        (formatting.metric(name, unit), best.intervals[name], analysis.untrained.get(name))
        for name in FIRST
    ]
    page = templates.render(
        INDEX, analysis=analysis, profile=profile, params=training.params, cards=cards,
        spacing=formatting.spacing, shape=formatting.shape, number=formatting.number,
        bounds=formatting.bounds, unit=unit, several=several,
        held=sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*")), **more,
    )  # fmt: skip
    files.write_text(folder / "index.html", page)


def _hide(folder: Path, session: Session, profile: DatasetProfile) -> None:
    """Take paths of this machine and addresses of servers out of every text."""
    places = {
        profile.dataset_path: profile.dataset,
        str(session.home.root): "OUTPUTS",
        session.config.tracking.uri or "": "MLflow",
        str(Path.home()): "~",
    }
    for path in folder.rglob("*"):
        if path.suffix in TEXTS:
            text = re.sub(r' href="https?://[^"]*"', "", path.read_text(encoding="utf-8"))
            for place, name in places.items():
                for spelled in {place, html.escape(place)} if len(place) > 1 else ():
                    text = re.sub(rf"(?<![\w.~-]){re.escape(spelled)}(?![\w-])", name, text)
            path.write_text(text, encoding="utf-8")
