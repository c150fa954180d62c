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
from minivess.analysis import champion, formatting
from minivess.analysis.report import figures, limitations, methods, sections
from minivess.config import ExperimentConfig
from minivess.contracts import AnalysisResult, DatasetProfile, FoldModel, Scores

TEMPLATE = "report.html.j2"


def render(
    result: AnalysisResult,
    profile: DatasetProfile,
    drawn: Sequence[figures.Drawn],
    *,
    links: Mapping[str, str],
    path: Path,
    config: ExperimentConfig | None = None,
    models: Sequence[FoldModel] = (),
) -> Path:
    """Write the HTML report.

    Args:
        drawn: figures of numbers, and panels (those with a `case`).
        links: run id -> address of its page.
        models: who was judged; with them the report names networks, losses and seeds.
    """
    config = config or ExperimentConfig()
    unit = formatting.distance_unit(profile)
    best = figures.champion_of(result)
    content = {
        "title": f"{result.experiment}: {result.champion.family}",
        "result": result,
        "profile": profile,
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "cards": sections.headline(result, unit),
        "called": best.intervals[names.PRIMARY].called,
        "size": figures.evidence(best),
        "table": sections.comparison(result, config, models, unit),
        "test": sections.test(result, unit),
        "classes": sections.per_class(result, unit),
        "volumes": sections.volumes(result, profile, unit),
        "figures": {one.name: one for one in drawn if one.svg},
        "panels": [_panel(one, best, unit) for one in drawn if one.case],
        "notes": limitations.notes(result, best, config, models, profile),
        "data": sections.data(profile, unit),
        "findings": [one for one in profile.findings if one.severity != "info"],
        "methods": methods.paragraphs(result, profile, config, models),
        "references": methods.REFERENCES,
        "lineage": sections.lineage(result, profile, models, links),
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


def _panel(drawn: figures.Drawn, best: Scores, unit: formatting.Unit) -> dict[str, Any]:
    values = next(one.values for one in best.volumes if one.case == drawn.case)
    metrics = [
        f"{known.label} {known.number(values[name])}{f' {known.unit}' if known.unit else ''}"
        for name in sections.HEADLINE
        if name in values
        for known in [formatting.metric(name, unit)]
    ]
    return {"case": drawn.case, "note": drawn.caption, "path": drawn.path, "metrics": metrics}


# --- tables -------------------------------------------------------------------------------


def tables(
    result: AnalysisResult, folder: Path, unit: formatting.Unit = formatting.HEADER
) -> list[Path]:
    """Write families and volumes, those of a test set apart; LaTeX tells distances in `unit`.

    In the CSV they are in the unit of the headers.
    """
    written = [
        files.write_text(folder / "families.csv", _csv(family_rows(result))),
        files.write_text(folder / "volumes.csv", _csv(volume_rows(result))),
        files.write_text(folder / "families.tex", latex(result, unit)),
    ]
    if result.test:
        rows = {"test.csv": family_rows, "test_volumes.csv": volume_rows}
        written += [
            files.write_text(folder / name, _csv(make(result, result.test)))
            for name, make in rows.items()
        ]
    return written


def family_rows(
    result: AnalysisResult, judged: Sequence[Scores] | None = None
) -> list[dict[str, Any]]:
    """A row for each family, ensemble and metric, out of fold unless `judged` is the test set."""
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
            "ci_method": interval.method,
            "n": interval.n,
            "n_undefined": interval.n_undefined,
            "n_units": interval.n_units,
            "untrained": None if judged else result.untrained.get(metric),
        }
        for one in judged or figures.ordered(result)
        for metric, interval in one.intervals.items()
    ]


def volume_rows(
    result: AnalysisResult, judged: Sequence[Scores] | None = None
) -> list[dict[str, Any]]:
    """A row for each family or ensemble and volume, a column for each metric."""
    judged = judged or figures.ordered(result)
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


def latex(result: AnalysisResult, unit: formatting.Unit) -> str:
    """A booktabs table of means with intervals, the champion in bold."""
    judged = figures.ordered(result)
    metrics = [name for name in sections.COLUMNS if champion.mean(judged[0], name) is not None]
    heads = [_tex(_head(name, unit)) for name in metrics]
    lines = [
        r"\begin{tabular}{l" + "r" * len(metrics) + "}",
        r"\toprule",
        " & ".join(["Family", *heads]) + r" \\",
        r"\midrule",
        *(_tex_row(one, metrics, result, unit) for one in judged),
    ]
    if result.untrained:
        before = [
            _tex(formatting.metric(name, unit).number(result.untrained.get(name)))
            for name in metrics
        ]
        lines += [r"\midrule", " & ".join(["untrained", *before]) + r" \\"]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _head(metric: str, unit: formatting.Unit) -> str:
    known = formatting.metric(metric, unit)
    return f"{known.label} ({known.unit})" if known.unit else known.label


def _tex_row(
    one: Scores, metrics: Sequence[str], result: AnalysisResult, unit: formatting.Unit
) -> str:
    bold = one.name == result.champion.family
    name = rf"\textbf{{{_tex(one.name)}}}" if bold else _tex(one.name)
    cells = []
    for metric in metrics:
        interval = one.intervals[metric]
        spell = formatting.metric(metric, unit).number
        text = spell(interval.mean)
        if interval.lower is not None:
            text += f" ({spell(interval.lower)}–{spell(interval.upper)})"  # noqa: RUF001
        if interval.n_undefined:
            text += f" [{formatting.undefined(interval)}]"
        cells.append(_tex(text))
    return " & ".join([name, *cells]) + r" \\"


def _tex(text: str) -> str:
    for sign, safe in (("_", r"\_"), ("%", r"\%"), ("−", "$-$"), ("–", "--"), ("µ", r"$\mu$")):  # noqa: RUF001
        text = text.replace(sign, safe)
    return text


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


# --- markdown -----------------------------------------------------------------------------


def markdown(result: AnalysisResult, unit: formatting.Unit = formatting.HEADER) -> str:
    """The first screen of the report for Prefect's page."""
    judged = figures.ordered(result)
    metrics = [name for name in sections.COLUMNS if champion.mean(judged[0], name) is not None]
    lines = [
        f"# Champion: {result.champion.family}",
        "",
        result.champion.reason,
        "",
        "Out of fold:",
        "",
        *_markdown_head(metrics, unit),
        *(_markdown_row(one, metrics, result, unit) for one in judged),
    ]
    if result.untrained:
        before = [
            formatting.metric(name, unit).number(result.untrained.get(name)) for name in metrics
        ]
        lines.append(f"| untrained | {' | '.join(before)} |")
    if result.test:
        lines += ["", sections.test_sentence(result), "", *_markdown_head(metrics, unit)]
        lines += [_markdown_row(one, metrics, result, unit) for one in result.test]
    lines += ["", f"Data version {result.dataset_hash}."]
    return "\n".join([*lines, *(f"\n{note}" for note in result.notes), ""])


def _markdown_head(metrics: Sequence[str], unit: formatting.Unit) -> list[str]:
    heads = ["Family", *(_head(name, unit) for name in metrics)]
    return [f"| {' | '.join(heads)} |", f"|---|{'---:|' * len(metrics)}"]


def _markdown_row(
    one: Scores, metrics: Sequence[str], result: AnalysisResult, unit: formatting.Unit
) -> str:
    name = f"**{one.name}**" if one.name == result.champion.family else one.name
    cells = []
    for metric in metrics:
        interval = one.intervals[metric]
        notes = [formatting.bounds(interval)] * (metric == names.PRIMARY)
        notes += [formatting.undefined(interval)] * bool(interval.n_undefined)
        more = f" ({', '.join(notes)})" if notes else ""
        cells.append(formatting.metric(metric, unit).number(interval.mean) + more)
    return f"| {name} | {' | '.join(cells)} |"
