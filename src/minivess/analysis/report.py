"""The report: one HTML file that needs nothing else, tables for papers, markdown for Prefect."""

from __future__ import annotations

import base64
import csv
import io
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from minivess import files, names
from minivess.analysis import champion, figures, limits, methods, sections, wording
from minivess.config import ExperimentConfig
from minivess.contracts import AnalysisResult, DatasetProfile, Judged, Member

TEMPLATE = "report.html.j2"


def render(
    result: AnalysisResult,
    profile: DatasetProfile,
    drawn: Sequence[figures.Drawn],
    *,
    links: Mapping[str, str],
    path: Path,
    config: ExperimentConfig | None = None,
    members: Sequence[Member] = (),
) -> Path:
    """Write the HTML report.

    Args:
        drawn: figures of numbers, and panels (those with a `case`).
        links: run id -> address of its page.
        members: who was judged; with them the report names networks, losses and seeds.
    """
    config = config or ExperimentConfig()
    unit = wording.distance_unit(profile)
    best = figures.champion_of(result)
    content = {
        "title": f"{result.experiment}: {result.champion.family}",
        "result": result,
        "profile": profile,
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "cards": sections.headline(result, unit),
        "level": wording.level(best.intervals[names.PRIMARY]),
        "size": _size(best),
        "table": sections.comparison(result, config, members, unit),
        "classes": sections.per_class(result, unit),
        "volumes": sections.volumes(result, profile, unit),
        "figures": {one.name: one for one in drawn if one.svg},
        "panels": [_panel(one, best, unit) for one in drawn if one.case],
        "notes": limits.notes(result, best, config, members),
        "data": sections.data(profile, unit),
        "findings": [one for one in profile.findings if one.severity != "info"],
        "methods": methods.paragraphs(result, profile, config, members),
        "references": methods.REFERENCES,
        "lineage": sections.lineage(result, profile, members, links),
    }
    return files.write_text(path, _environment().get_template(TEMPLATE).render(content))


def _environment() -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["inlined"] = inlined
    return environment


def inlined(picture: Path) -> str:
    """A PNG file as a data address."""
    return f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"


def _size(best: Judged) -> str:
    n, volumes = limits.units(best), len(best.volumes)
    said = wording.volumes(volumes)
    return said if n == volumes else f"{said} in {wording.counted(n, 'group')}"


def _panel(drawn: figures.Drawn, best: Judged, unit: str) -> dict[str, Any]:
    values = next(one.values for one in best.volumes if one.case == drawn.case)
    metrics = [
        f"{known.label} {known.number(values[name])}{f' {known.unit}' if known.unit else ''}"
        for name in sections.HEADLINE
        if name in values
        for known in [wording.metric(name, unit)]
    ]
    return {"case": drawn.case, "note": drawn.caption, "path": drawn.path, "metrics": metrics}


# --- tables -------------------------------------------------------------------------------


def tables(result: AnalysisResult, folder: Path) -> list[Path]:
    """Write families.csv, volumes.csv and families.tex."""
    return [
        files.write_text(folder / "families.csv", _csv(family_rows(result))),
        files.write_text(folder / "volumes.csv", _csv(volume_rows(result))),
        files.write_text(folder / "families.tex", latex(result)),
    ]


def family_rows(result: AnalysisResult) -> list[dict[str, Any]]:
    """A row for each family, ensemble and metric."""
    return [
        {
            "name": one.name,
            "kind": "ensemble" if len(one.members) > 1 else "family",
            "champion": one.name == result.champion.family,
            "trainable_parameters": one.trainable_parameters,
            "metric": metric,
            "mean": interval.mean,
            "ci_lower": interval.lower,
            "ci_upper": interval.upper,
            "ci_level": interval.level,
            "n": interval.n,
            "untrained": result.untrained.get(metric),
        }
        for one in figures.ordered(result)
        for metric, interval in one.intervals.items()
    ]


def volume_rows(result: AnalysisResult) -> list[dict[str, Any]]:
    """A row for each family or ensemble and volume, a column for each metric."""
    judged = figures.ordered(result)
    metrics = dict.fromkeys(metric for one in judged for metric in one.intervals)
    return [
        {
            "name": one.name,
            "case": volume.case,
            "group": volume.group,
            **{metric: volume.values.get(metric) for metric in metrics},
        }
        for one in judged
        for volume in one.volumes
    ]


def latex(result: AnalysisResult) -> str:
    """A booktabs table of means with intervals, the champion in bold."""
    judged = figures.ordered(result)
    metrics = [name for name in sections.COLUMNS if champion.mean(judged[0], name) is not None]
    heads = [_tex(wording.metric(name).label) for name in metrics]
    lines = [
        r"\begin{tabular}{l" + "r" * len(metrics) + "}",
        r"\toprule",
        " & ".join(["Family", *heads]) + r" \\",
        r"\midrule",
        *(_tex_row(one, metrics, bold=one.name == result.champion.family) for one in judged),
    ]
    if result.untrained:
        before = [_tex(wording.metric(name).number(result.untrained.get(name))) for name in metrics]
        lines += [r"\midrule", " & ".join(["untrained", *before]) + r" \\"]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _tex_row(one: Judged, metrics: Sequence[str], *, bold: bool) -> str:
    name = rf"\textbf{{{_tex(one.name)}}}" if bold else _tex(one.name)
    cells = []
    for metric in metrics:
        interval = one.intervals[metric]
        spell = wording.metric(metric).number
        text = spell(interval.mean)
        if interval.lower is not None:
            text += f" ({spell(interval.lower)}–{spell(interval.upper)})"  # noqa: RUF001
        cells.append(_tex(text))
    return " & ".join([name, *cells]) + r" \\"


def _tex(text: str) -> str:
    for sign, safe in (("_", r"\_"), ("%", r"\%"), ("−", "$-$"), ("–", "--")):  # noqa: RUF001
        text = text.replace(sign, safe)
    return text


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


# --- markdown -----------------------------------------------------------------------------


def markdown(result: AnalysisResult) -> str:
    """The first screen of the report for Prefect's page."""
    judged = figures.ordered(result)
    metrics = [name for name in sections.COLUMNS if champion.mean(judged[0], name) is not None]
    heads = ["Family", *(wording.metric(name).label for name in metrics)]
    lines = [
        f"# Champion: {result.champion.family}",
        "",
        result.champion.reason,
        "",
        f"| {' | '.join(heads)} |",
        f"|---|{'---:|' * len(metrics)}",
        *(_markdown_row(one, metrics, result.champion.family) for one in judged),
    ]
    if result.untrained:
        before = [wording.metric(name).number(result.untrained.get(name)) for name in metrics]
        lines.append(f"| untrained | {' | '.join(before)} |")
    lines += ["", f"Data version {result.dataset_hash}."]
    return "\n".join([*lines, *(f"\n{note}" for note in result.notes), ""])


def _markdown_row(one: Judged, metrics: Sequence[str], champion_name: str) -> str:
    name = f"**{one.name}**" if one.name == champion_name else one.name
    cells = []
    for metric in metrics:
        interval = one.intervals[metric]
        bounds = f" ({wording.bounds(interval)})" if metric == names.PRIMARY else ""
        cells.append(wording.metric(metric).number(interval.mean) + bounds)
    return f"| {name} | {' | '.join(cells)} |"
