"""Figures of the report: each as PNG for papers and as SVG that follows the page's theme.

Colours are safe for colour-blind readers: the accent is the champion, greys are the rest; shapes
distinguish them in print. In the SVG they become CSS variables, so a dark page has dark figures.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from minivess import files, names
from minivess.analysis import champion, formatting, paired
from minivess.contracts import AnalysisResult, Scores, Uncertainty, VolumeMetrics
from minivess.text import several

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, RULE, ACCENT, OTHER = "#15191e", "#5d6873", "#dde2e7", "#0b66a8", "#98a3ae"
THEME = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    RULE: "var(--rule)",
    ACCENT: "var(--accent)",
    OTHER: "var(--other)",
}
WIDTH = 13.2  # inches; 950 units of the SVG, about its width in pixels on the page
FONT: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "axes.titlesize": 12,
    "svg.fonttype": "none",
    "axes.unicode_minus": True,
}
SORTED = "dice"
"""Metric by which volumes are sorted, worst first."""
COMPARED = (names.PRIMARY, "dice", "cldice", "masd")
NAMED_VOLUMES = 40


class Drawn(NamedTuple):
    """A figure: PNG file, SVG for the page, caption."""

    name: str
    path: Path
    svg: str | None
    caption: str
    case: str | None = None


def draw(
    result: AnalysisResult, folder: Path, unit: formatting.Unit = formatting.HEADER
) -> list[Drawn]:
    """Draw the figures of metrics as PNG files in `folder`; distances are in `unit`."""
    drawn = [comparison(result, folder, unit), per_volume(result, folder)]
    if result.uncertainty:
        drawn.append(reliability(result.uncertainty, folder))
    return drawn


def comparison(
    result: AnalysisResult, folder: Path, unit: formatting.Unit = formatting.HEADER
) -> Drawn:
    """Draw means with intervals: a row per family or ensemble, a column per metric."""
    judged = ordered(result)
    metrics = [name for name in COMPARED if any(champion.mean(one, name) for one in judged)]
    figure, axes = _canvas(len(metrics), height=1.0 + 0.42 * (len(judged) + 1))
    for column, (axis, metric) in enumerate(zip(axes, metrics, strict=True)):
        for row, one in enumerate(judged):
            _interval(axis, row, one, metric, result.champion.family, unit)
        before = result.untrained.get(metric)
        if before is not None:
            before *= formatting.metric(metric, unit).factor
            axis.plot(before, len(judged), "D", mfc="none", mec=MUTED, ms=6, mew=1.3)
        _rows(axis, [*(one.name for one in judged), "untrained"], show=column == 0)
        _titled(axis, metric, unit)
    caption = (
        f"Mean over volumes, line: {result.winner.intervals[names.PRIMARY].called}; "
        "faint dots are single volumes. The champion is filled in colour, ensembles are squares, "
        "the diamond is the network before its first training step."
    )
    return _save(figure, folder, "comparison", caption)


def per_volume(result: AnalysisResult, folder: Path) -> Drawn:
    """Draw Dice of each volume, hardest first: the champion and the others."""
    best = result.winner
    cases = [volume.case for volume in worst_first(best) if volume.values.get(SORTED) is not None]
    figure, (axis,) = _canvas(1, height=3.9)
    for other in (one for one in ordered(result) if one is not best):
        found = paired.values(other, SORTED)
        style = "s" if other in result.ensembles else "o"
        axis.plot(*_points(cases, found), style, mfc="none", mec=OTHER, ms=5.5, mew=1.2)
    axis.plot(*_points(cases, paired.values(best, SORTED)), "o", color=ACCENT, ms=6.5)
    axis.set_xlim(-0.7, len(cases) - 0.3)
    few = len(cases) <= NAMED_VOLUMES
    axis.set_xticks(range(len(cases)) if few else [], cases if few else [])
    axis.tick_params(axis="x", rotation=50 if len(cases) > 8 else 0, length=0, labelsize=9.5)
    for label in axis.get_xticklabels() if len(cases) > 8 else ():
        label.set(ha="right", rotation_mode="anchor")
    axis.set_ylim(max(axis.get_ylim()[0] - 0.04, -0.02), 1.02)
    axis.grid(axis="y", color=RULE, lw=0.8)
    axis.set_ylabel(formatting.metric(SORTED).label, color=MUTED)
    caption = (
        f"{formatting.metric(SORTED).label} of each volume, hardest first: "
        f"filled dots are {best.name}, open dots the other families, squares ensembles."
    )
    return _save(figure, folder, "per_volume", caption)


def reliability(found: Uncertainty, folder: Path) -> Drawn:
    """Draw how often voxels are of a class, by their probability: everywhere and near walls."""
    regions = list(dict.fromkeys(one.region for one in found.reliability))
    figure, axes = _canvas(len(regions), height=4.6)
    for axis, region in zip(axes, regions, strict=True):
        axis.plot([0, 1], [0, 1], color=RULE, lw=2, zorder=1)
        for place, one in enumerate(one for one in found.reliability if one.region == region):
            said, so, shares = zip(*one.bins, strict=True)
            colour = ACCENT if not place else MUTED
            axis.plot(said, so, "osD^v"[place % 5], ls="-", color=colour, lw=1.6, ms=0, zorder=2)
            sizes = [20 + 180 * share**0.5 for share in shares]
            axis.scatter(
                said, so, sizes, c=colour, marker="osD^v"[place % 5], label=f"class {one.label}"
            )
        axis.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
        axis.grid(color=RULE, lw=0.8)
        axis.set_title(region, loc="left", color=INK, fontweight="bold")
        axis.set_xlabel("probability", color=MUTED)
        axis.set_ylabel("share of the class", color=MUTED)
        if len(found.reliability) > len(regions):
            axis.legend(frameon=False, labelcolor=INK, loc="upper left")
    caption = (
        "Voxels by the probability that the champion gave their class, and how many were of it; "
        "on the line both agree, below it the network is too sure. Larger marks hold more voxels."
    )
    return _save(figure, folder, "reliability", caption)


# --- the same order everywhere ------------------------------------------------------------


def ordered(result: AnalysisResult) -> list[Scores]:
    """Return the champion, then families, then ensembles, each best first in its metric."""
    best, metric = result.winner, result.champion.metric
    sign = 1.0 if paired.lower_is_better(metric) else -1.0

    def rank(one: Scores) -> float:
        value = champion.mean(one, metric)
        return float("inf") if value is None else sign * value

    families, ensembles = (
        sorted((one for one in judged if one.name != best.name), key=rank)
        for judged in (result.families, result.ensembles)
    )
    return [best, *families, *ensembles]


def worst_first(judged: Scores) -> list[VolumeMetrics]:
    """Return volumes by ascending Dice, then clDice; undefined values come first.

    The compound metric is unsuitable: half of it hardly changes among bad masks.
    """

    def rank(volume: VolumeMetrics) -> list[float]:
        values = [volume.values.get(metric) for metric in (SORTED, "cldice")]
        return [-1.0 if value is None else value for value in values]

    return sorted(judged.volumes, key=rank)


def units(judged: Scores) -> int:
    """Number of independent units: groups if volumes have one, else volumes."""
    return len({(one.group is None, one.group or one.case) for one in judged.volumes})


def evidence(judged: Scores) -> str:
    """Format `12 volumes`, or `12 volumes in 3 groups`."""
    text, found = several(len(judged.volumes), "volume"), units(judged)
    grouped = any(one.group is not None for one in judged.volumes)
    return f"{text} in {several(found, 'group')}" if grouped else text


# --- drawing ------------------------------------------------------------------------------


def _canvas(columns: int, height: float) -> tuple[Figure, Sequence[Axes]]:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(FONT):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        figure.get_layout_engine().set(wspace=0.06)  # type: ignore[union-attr, call-arg]
        axes = figure.subplots(1, columns, squeeze=False)[0]
    for axis in axes:
        axis.spines[:].set_visible(False)
        axis.tick_params(colors=MUTED, length=0, labelsize=10)
        axis.set_axisbelow(True)
    return figure, list(axes)


def _interval(
    axis: Axes, row: int, one: Scores, metric: str, champion_name: str,
    unit: formatting.Unit = formatting.HEADER,
) -> None:  # fmt: skip
    factor = formatting.metric(metric, unit).factor
    interval = one.intervals.get(metric)
    if interval is None or interval.mean is None:
        return
    wins = one.name == champion_name
    colour = ACCENT if wins else MUTED
    single = [factor * value for value in paired.values(one, metric).values() if value is not None]
    axis.plot(single, [row + 0.0] * len(single), "o", color=OTHER, ms=4, alpha=0.35, mew=0)
    if interval.lower is not None and interval.upper is not None:
        ends = [factor * interval.lower, factor * interval.upper]
        axis.plot(ends, [row, row], color=colour, lw=2.4, solid_capstyle="round")
    shape = "s" if one.combined else "o"
    axis.plot(
        factor * interval.mean,
        row,
        shape,
        mfc=colour if wins else "white",
        mec=colour,
        ms=8,
        mew=1.8,
    )


def _rows(axis: Axes, labels: Sequence[str], *, show: bool) -> None:
    axis.set_ylim(len(labels) - 0.5, -0.5)
    axis.set_yticks(range(len(labels)), labels if show else [""] * len(labels))
    for label in axis.get_yticklabels():
        label.set(color=INK, fontsize=11)
    axis.grid(axis="x", color=RULE, lw=0.8)


def _titled(axis: Axes, metric: str, unit: formatting.Unit) -> None:
    known = formatting.metric(metric, unit)
    arrow = "higher is better" if known.higher_is_better else f"{known.unit}, lower is better"
    axis.set_title(known.label, loc="left", color=INK, fontweight="bold")
    axis.set_xlabel(arrow, loc="left", color=MUTED, fontsize=9.5)


def _points(
    cases: Sequence[str], found: Mapping[str, float | None]
) -> tuple[list[int], list[float]]:
    pairs = [
        (place, value) for place, case in enumerate(cases) if (value := found.get(case)) is not None
    ]
    return [place for place, _ in pairs], [value for _, value in pairs]


def _save(figure: Figure, folder: Path, name: str, caption: str) -> Drawn:
    import matplotlib as mpl

    with mpl.rc_context({**FONT, "svg.hashsalt": name}):
        path = files.write(
            folder / f"{name}.png",
            lambda target: figure.savefig(target, dpi=144, facecolor="white"),
        )
        text = StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    return Drawn(name, path, themed(text.getvalue(), caption), caption)


def themed(svg: str, caption: str) -> str:
    """Adapt matplotlib's SVG to a page: colours and font of the page, no fixed size."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"'DejaVu Sans'(, [^;\"]*)?", "var(--font)", svg)
    svg = svg.replace("#ffffff", "var(--page)")
    for colour, variable in THEME.items():
        svg = svg.replace(colour, variable)
    label = caption.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
