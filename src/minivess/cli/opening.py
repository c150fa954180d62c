"""Pages opened where there is a desktop; elsewhere their address is printed."""

from __future__ import annotations

import argparse
import sys
import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from minivess import names
from minivess.errors import OrchestrationError, StoreError, UsageError, nearest
from minivess.orchestration import handoff
from minivess.orchestration.background import Background
from minivess.orchestration.session import Session
from minivess.stages import analyse, profile, search_page
from minivess.upkeep import listing
from minivess.verbs import PAGES


class Shown(NamedTuple):
    """One kind of run that has a page of its own."""

    kind: str
    page: Callable[[Session, str], Path]
    made_by: str


def gallery_page(session: Session, run_id: str) -> Path:
    """The gallery of a profile on this machine."""
    return _fetched(session, run_id, names.GALLERY_ARTIFACT, profile.gallery_of(session, run_id))


def page_of_search(session: Session, run_id: str) -> Path:
    """The page of a search on this machine."""
    return _fetched(session, run_id, search_page.ARTIFACT, search_page.path(session, run_id))


def _fetched(session: Session, run_id: str, artifact: str, path: Path) -> Path:
    return path if path.is_file() else session.store.download(run_id, artifact, path.parent)


OF_RUNS = {
    "report": Shown(names.ANALYSIS, analyse.report_page, "analyse"),
    "gallery": Shown(names.PROFILE, gallery_page, "profile"),
    "search": Shown(names.SEARCH, page_of_search, "search"),
}


def show(session: Session, options: argparse.Namespace) -> dict[str, Any]:
    """Open the page that is named: of the latest run of its kind, of one run, or of a server.

    Raises:
        UsageError: it is no page and no run.
        StoreError: there is no such run yet.
        OrchestrationError: its server does not run.
    """
    (what,) = options.arguments or ["report"]
    run_id, upstream = None, options.upstream
    if upstream and what in ("mlflow", "prefect"):
        raise UsageError(
            f"The page of {what} is of no run, and --upstream names one.",
            remedy=f"minivess open {upstream[0]}",
        )
    if what in ("mlflow", "prefect"):
        page = server(session, what)
    elif what in OF_RUNS:
        run_id = latest(session, what, upstream)
        page = OF_RUNS[what].page(session, run_id).as_uri()
    else:
        run_id, page = of_run(session, what)
    session.print(f"  {page}")
    opened = not options.json and sys.stdout.isatty() and session.env.desktop
    if opened:
        webbrowser.open(page)
    return {"page": page, "run_id": run_id, "opened": opened}


def latest(session: Session, what: str, upstream: Sequence[str]) -> str:
    """The run whose page is meant: the one given, else the newest of the settings or the home."""
    asked, shown = session.config, OF_RUNS[what]
    named = bool(asked.name or asked.data.root or asked.data.name)
    if what == "report" and (upstream or named):
        return str(handoff.receive_analysis(session, upstream).run_id)
    if upstream:
        return _of_kind(session, upstream[0], what)
    own = asked.experiment if named else None
    rows = listing.rows(session.store, [shown.kind], experiment=own)
    found = [row["run_id"] for row in rows if row["status"] == "FINISHED"]
    if not found:
        where = f" of {asked.experiment!r}" if named else ""
        raise StoreError(
            f"There is no finished {shown.made_by} run{where}.",
            remedy=f"{session.command(shown.made_by)}, then minivess open {what}",
        )
    return str(found[0])


def _of_kind(session: Session, run_id: str, what: str) -> str:
    kind, wanted = session.store.get(run_id).tags.get(names.KIND), OF_RUNS[what].kind
    if kind != wanted:
        raise UsageError(
            f"{run_id} is a run of kind {kind}, and {what} is a page of {wanted}.",
            remedy=f"minivess open {run_id}, or minivess runs {wanted}",
        )
    return session.store.resolve(run_id)


def of_run(session: Session, word: str) -> tuple[str, str]:
    """A run's id, and its own page where its kind has one, else that in MLflow."""
    if near := nearest(word, PAGES):
        raise UsageError(f"There is no page {word!r}.", remedy=f"did you mean open {near}?")
    record = session.store.get(word)
    kind = record.tags.get(names.KIND)
    for shown in OF_RUNS.values():
        if shown.kind == kind and record.status == "FINISHED":
            return record.run_id, shown.page(session, record.run_id).as_uri()
    return record.run_id, session.store.url(record.run_id, server(session, "mlflow"))


def server(session: Session, name: str) -> str:
    """Address of a server's page.

    Raises:
        OrchestrationError: it does not run.
    """
    servers = Background(session.home, session.config.tracking, session.env, session.print)
    part = servers.parts[name]
    if part.address is None or not part.well:
        raise OrchestrationError(
            f"{part.title} does not answer, so its page cannot be opened.", remedy="minivess up"
        )
    return part.address
