"""The report: a self-contained HTML file, tables for papers, markdown for Prefect."""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from minivess import files, names, units
from minivess.analysis import champion, formatting
from minivess.analysis.report import choice, figures, limitations, methods, sections
from minivess.config import ExperimentConfig
from minivess.contracts import AnalysisResult, DatasetProfile, FoldModel, Interval, Scores
from minivess.runtime import templates

FOLDER = Path(__file__).parent


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
        drawn: figures of metrics, and panels (those with a `case`).
        links: run id -> address of its page.
        models: the evaluated models; with them the report names networks, losses and seeds.
    """
    config = config or ExperimentConfig()
    unit = formatting.distance_unit(profile)
    best = result.winner
    content = {
        "title": f"{result.experiment}: {result.champion.family}",
        "result": result,
        "profile": profile,
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "cards": sections.headline(result, unit),
        "called": best.intervals[names.PRIMARY].called,
        "size": figures.evidence(best),
        "table": sections.comparison(result, models, unit),
        "choice": choice.content(result, config),
        "test": sections.test(result, unit),
        "topology": sections.topology(result, unit),
        "classes": sections.per_class(result, unit),
        "volumes": sections.volumes(result, profile, unit),
        "faults": result.faults,
        "fault_length": config.evaluation.fault_length,
        "distance": unit,
        "spelled": formatting.significant,
        "symbol": units.symbol,
        "segments": sections.segments(best, profile),
        "figures": {one.name: one for one in drawn if one.svg},
        "panels": [_panel(one, best, unit) for one in drawn if one.case],
        "uncertainty": result.uncertainty,
        "number": formatting.number,
        "signed": formatting.signed,
        "models": models,
        "final": names.FINAL,
        "notes": limitations.notes(result, best, config, models, profile),
        "data": sections.data(profile, unit),
        "findings": [one for one in profile.findings if one.severity != "info"],
        "methods": methods.paragraphs(result, profile, config, models),
        "lineage": sections.lineage(result, profile, models, links),
    }
    return files.write_text(path, templates.render(FOLDER / "report.html.j2", **content))


def inlined(picture: Path) -> str:
    """Return a PNG file as a data URI, as WebP, a quarter of the bytes; the PNG stays a file."""
    from PIL import Image

    packed = BytesIO()
    Image.open(picture).convert("RGB").save(packed, "WEBP", quality=90)
    return f"data:image/webp;base64,{base64.b64encode(packed.getvalue()).decode()}"


def _panel(drawn: figures.Drawn, best: Scores, unit: formatting.Unit) -> dict[str, Any]:
    values = next(one.values for one in best.volumes if one.case == drawn.case)
    metrics = [
        f"{known.label} {known.number(values[name])}{f' {known.unit}' if known.unit else ''}"
        for name in sections.HEADLINE
        if name in values
        for known in [formatting.metric(name, unit)]
    ]
    return {
        "case": drawn.case,
        "note": drawn.caption,
        "picture": inlined(drawn.path),
        "metrics": metrics,
    }


# --- tables -------------------------------------------------------------------------------


def tables(
    result: AnalysisResult, folder: Path, unit: formatting.Unit = formatting.HEADER
) -> list[Path]:
    """Write tables of families and volumes, those of a test set separately.

    Distances are in `unit` in LaTeX, and in the unit of the headers in CSV.
    """
    rows = {
        "families": family_rows(result),
        "volumes": volume_rows(result),
        "comparisons": comparison_rows(result),
        "faults": fault_rows(result),
    }
    if result.measured:
        rows["measures"] = measure_rows(result)
    if result.test:
        rows["test"] = family_rows(result, result.test)
        rows["test_volumes"] = volume_rows(result, result.test)
    written = [files.write_csv(folder / f"{name}.csv", of) for name, of in rows.items()]
    return [*written, files.write_text(folder / "families.tex", latex(result, unit))]


def family_rows(
    result: AnalysisResult, judged: Sequence[Scores] | None = None
) -> list[dict[str, Any]]:
    """Return a row per family or ensemble and metric; `judged` defaults to out-of-fold scores."""
    return [
        {
            "name": one.name,
            "kind": "ensemble" if one.combined else "family",
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


def comparison_rows(result: AnalysisResult) -> list[dict[str, Any]]:
    """Return a row per pair of families and ensembles."""
    return [
        {
            "name": one.name,
            "against": one.against,
            "metric": result.champion.metric,
            "difference": one.difference.mean,
            "ci_lower": one.difference.lower,
            "ci_upper": one.difference.upper,
            "n": one.difference.n,
            "n_units": one.difference.n_units,
            **one.model_dump(include={"better", "worse", "p_value", "p_holm"}),
            "effect": one.effect and one.effect.mean,
            "effect_lower": one.effect and one.effect.lower,
            "effect_upper": one.effect and one.effect.upper,
            **one.model_dump(include={"detectable", "fold_spread"}),
            "seed_noise": result.seed_noise,
        }
        for one in result.comparisons
    ]


def fault_rows(result: AnalysisResult) -> list[dict[str, Any]]:
    """Return a row per break, merge or branch of the champion, longest first."""
    return [
        {
            "name": result.champion.family,
            "fault": one.kind,
            **one.model_dump(exclude={"kind", "voxel", "place"}),
            **dict(zip("xyz", one.place, strict=True)),
        }
        for one in result.faults
    ]


def measure_rows(result: AnalysisResult) -> list[dict[str, Any]]:
    """Return a row per volume, class and measure of the champion's vessels."""
    return [{"name": result.champion.family, **one.model_dump()} for one in result.measured]


def volume_rows(
    result: AnalysisResult, judged: Sequence[Scores] | None = None
) -> list[dict[str, Any]]:
    """Return a row per family or ensemble and volume, with a column per metric."""
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
    """Return a booktabs table of means with intervals, the champion in bold."""

    def cell(interval: Interval, metric: str) -> str:
        spell = formatting.metric(metric, unit).number
        text = spell(interval.mean)
        if interval.lower is not None:
            text += f" ({spell(interval.lower)}–{spell(interval.upper)})"  # noqa: RUF001
        return text + (f" [{formatting.undefined(interval)}]" if interval.n_undefined else "")

    return _filled("families.tex.j2", result, unit, cell=cell, tex=_tex)


def markdown(result: AnalysisResult, unit: formatting.Unit = formatting.HEADER) -> str:
    """Return the summary of the report as markdown, for Prefect's page."""

    def cell(interval: Interval, metric: str) -> str:
        notes = [formatting.bounds(interval)] * (metric == result.champion.metric)
        notes += [formatting.undefined(interval)] * bool(interval.n_undefined)
        more = f" ({', '.join(notes)})" if notes else ""
        return formatting.metric(metric, unit).number(interval.mean) + more

    test = sections.test_sentence(result) if result.test else ""
    expectation = choice.expectation(result)
    return _filled("report.md.j2", result, unit, cell=cell, test=test, expectation=expectation)


def _filled(template: str, result: AnalysisResult, unit: formatting.Unit, **more: Any) -> str:
    """A table of families and metrics in one of our templates."""

    def head(metric: str) -> str:
        known = formatting.metric(metric, unit)
        return f"{known.label} ({known.unit})" if known.unit else known.label

    judged = figures.ordered(result)
    return templates.render(
        FOLDER / template,
        result=result,
        judged=judged,
        metrics=[name for name in sections.COLUMNS if champion.mean(judged[0], name) is not None],
        head=head,
        number=lambda value, metric: formatting.metric(metric, unit).number(value),
        **more,
    )


def _tex(text: str) -> str:
    for sign, safe in (("_", r"\_"), ("%", r"\%"), ("−", "$-$"), ("–", "--"), ("µ", r"$\mu$")):  # noqa: RUF001
        text = text.replace(sign, safe)
    return text
