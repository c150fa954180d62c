"""The page of a search: its course, what mattered, each setting, and the metric against time."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from minivess import files
from minivess.grid.trials import Trials
from minivess.orchestration.session import Session
from minivess.runtime import templates

ARTIFACT = "search/search.html"
TEMPLATE = Path(__file__).with_name("search.html.j2")
Row = dict[str, Any]


def path(session: Session, run_id: str) -> Path:
    """Where the page of a search lies on this machine."""
    return session.home.reports / run_id / "search.html"


def write(session: Session, study: Trials, run_id: str) -> Path:
    """Write the page: one file that needs no network."""
    rows = study.explained()
    done = [row for row in rows if row["state"] == "complete"]
    best_first = front(done)
    shares, keys = study.importance(), list(study.search.space)
    text = templates.render(
        TEMPLATE,
        name=session.config.experiment,
        metric=study.search.metric,
        rows=rows,
        keys=keys,
        best=study.best,
        front=[row["trial"] for row in best_first],
        shares=shares,
        course=_drawn("trial", study.search.metric, done, "trial"),
        slices={key: _drawn(key, study.search.metric, done, key) for key in keys},
        against_time=_drawn("seconds", study.search.metric, done, "seconds", best_first),
    )
    return files.write_text(path(session, run_id), text)


def front(done: list[Row]) -> list[Row]:
    """Trials that no other surpasses in metric or seconds without being worse in the other."""
    kept: list[Row] = []
    for row in sorted(done, key=lambda row: (row["seconds"], -row["value"])):
        if not kept or row["value"] > kept[-1]["value"]:
            kept.append(row)
    return kept


def _drawn(title: str, metric: str, done: list[Row], key: str, lined: Sequence[Row] = ()) -> str:
    """One value of each complete trial against the metric, as SVG; `lined` are joined."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3), layout="constrained")
    axes, given = figure.subplots(), [row[key] for row in done]
    if not all(isinstance(value, int | float) for value in given):
        given = [str(value) for value in given]
    elif title not in ("trial", "seconds") and min(given, default=0) > 0:
        axes.set_xscale("log" if max(given) > 20 * min(given) else "linear")
    axes.scatter(given, [row["value"] for row in done], s=24)
    if lined:
        axes.plot([row[key] for row in lined], [row["value"] for row in lined], linewidth=1)
    axes.set(xlabel=title, ylabel=metric)
    text = StringIO()
    figure.savefig(text, format="svg")
    return text.getvalue().partition("<svg")[2]
