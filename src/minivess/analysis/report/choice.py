"""Content of the section on the choice: differences, stability, other rules, trade-offs."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minivess import names
from minivess.analysis import champion, formatting, paired
from minivess.analysis.report import figures
from minivess.config import ExperimentConfig
from minivess.contracts import AnalysisResult, Comparison, FoldModel, Interval, Scores
from minivess.errors import DataError
from minivess.runtime import templates

Row = dict[str, Any]
RULES = (names.PRIMARY, "dice", "cldice", "nsd", "masd", *names.BETTI)
TIES = {"smaller": "fewer parameters", "mean": "better mean"}
TRADED = ("dice", "cldice", "masd")
AXES = (*TRADED, names.PRIMARY, "nsd", "hd95", *names.COUNTS)
COSTS = {
    "seconds": formatting.Metric("Training", "of all folds", formatting.Unit("s of all folds")),
    "parameters": formatting.Metric("Parameters", "", counted=True),
}
BARE = str.maketrans("", "", '" ')
"""Takes out of a list in JSON what the command line does not need."""
PAGE = Path(__file__).with_name("tradeoffs.html.j2")


def content(result: AnalysisResult, config: ExperimentConfig) -> Row:
    """Return everything that `choice.html.j2` shows."""
    best = result.winner
    metric = result.champion.metric
    others = [one for one in figures.ordered(result) if one is not best]
    found = [(one, result.comparison(one.name, best.name)) for one in others]
    return {
        "metric": formatting.metric(metric).label,
        "expectation": expectation(result),
        "noise": _noise(result),
        "smallest_p": _smallest_p([gap for _, gap in found if gap]),
        "rows": [_difference(one, gap, result) for one, gap in found if gap],
        "rules": rules(result, config),
        "pareto": pareto(result),
    }


def expectation(result: AnalysisResult) -> str:
    """Return the line on what was picked and what new volumes may show; empty without a choice."""
    again = result.selection
    if again is None or again.expected is None:
        return ""
    known, name = formatting.metric(result.champion.metric), result.champion.family
    most, share = max(again.first.items(), key=lambda item: item[1])
    return (
        f"Picked {known.number(result.champion.value)}, expected on new volumes "
        f"{known.number(again.expected)}. With the volumes resampled {again.resamples} times, the "
        f"rule chooses {name} in {_percent(again.chosen[name])} of them"
        + ("." if most == name else f"; {most} has the best mean in {_percent(share)}.")
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _noise(result: AnalysisResult) -> str:
    if result.seed_noise is None:
        return "Seed noise is unknown: no network and loss was trained with several seeds."
    return (
        "Another seed alone makes a difference with a standard deviation of "
        f"{formatting.number(result.seed_noise)}."
    )


def _smallest_p(found: Sequence[Comparison]) -> str:
    """A warning where no difference could have a p-value below 0.05."""
    units = min((gap.difference.n_units for gap in found), default=0)
    smallest = 2.0 ** (1 - units)
    if not units or smallest <= 0.05:
        return ""
    return f"With {units} of them the smallest possible p-value is {smallest:.3g}."


def _difference(one: Scores, gap: Comparison, result: AnalysisResult) -> Row:
    again, units = result.selection, gap.difference.n_units
    value = gap.difference.mean
    inside = None not in (result.seed_noise, value) and abs(value or 0) < (result.seed_noise or 0)
    return {
        "name": one.name,
        "value": formatting.signed(value),
        "bounds": _between(gap.difference),
        "tied": gap.tied,
        "inside": inside,
        "p": _p(gap.p_value),
        "p_holm": _p(gap.p_holm),
        "effect": formatting.signed(gap.effect.mean if gap.effect else None),
        "effect_bounds": _between(gap.effect) if gap.effect else "",
        "better": f"{gap.better} of {units}",
        "detectable": formatting.number(gap.detectable),
        "folds": formatting.number(gap.fold_spread),
        "first": _percent(again.first[one.name]) if again and one.name in again.first else "",
        "chosen": _percent(again.chosen[one.name]) if again and one.name in again.chosen else "",
    }


def _between(interval: Interval) -> str:
    if interval.lower is None or interval.upper is None:
        return ""
    return f"{formatting.signed(interval.lower)} to {formatting.signed(interval.upper)}"


def _p(value: float | None) -> str:
    if value is None:
        return formatting.UNDEFINED
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def rules(result: AnalysisResult, config: ExperimentConfig) -> list[Row]:
    """Return what other metrics and tie rules would choose, with the command for another winner."""
    return [row for metric in RULES for row in _by_metric(metric, result, config)]


def _by_metric(metric: str, result: AnalysisResult, config: ExperimentConfig) -> list[Row]:
    """A row for each tie rule; one where both choose the same family."""
    eligible = champion.eligible([*result.families, *result.ensembles], config)
    by_id = {one.name: one.name for one in eligible}
    rows: list[Row] = []
    for ties, words in TIES.items():
        analysis = config.analysis.model_copy(update={"metric": metric, "ties": ties})
        asked = config.model_copy(update={"analysis": analysis})
        try:
            chosen = champion.choose(eligible, asked, by_id)
        except DataError:
            return []
        used = metric == result.champion.metric and ties == config.analysis.ties
        if rows and rows[0]["winner"] == chosen.family:
            return [rows[0] | {"ties": "either", "used": used or rows[0]["used"]}]
        rows.append(
            {
                "metric": formatting.metric(metric).label,
                "name": metric,
                "ties": words,
                "winner": chosen.family,
                "value": formatting.metric(metric).number(chosen.value),
                "used": used,
                "command": _command(metric, ties, result, config)
                if chosen.family != result.champion.family
                else "",
            }
        )
    return rows


def _command(metric: str, ties: str, result: AnalysisResult, config: ExperimentConfig) -> str:
    """The rule, and what else of this analysis is not the default; a shell takes it as printed."""
    asked: dict[str, Row] = {"analysis": {"metric": metric, "ties": ties}}
    for part in ("analysis", "evaluation"):
        given = getattr(config, part).model_dump(mode="json", exclude_defaults=True)
        asked[part] = given | asked.get(part, {})
    words = [
        f"{part}.{key}={json.dumps(value).translate(BARE)}"
        for part, keys in asked.items()
        for key, value in keys.items()
    ]
    upstream = ("--upstream", ",".join(result.training_run_ids))
    return shlex.join(["minivess", "analyse", *words, *upstream])


def tradeoffs(
    result: AnalysisResult,
    config: ExperimentConfig,
    models: Sequence[FoldModel],
    unit: formatting.Unit,
) -> str:
    """Return the page on which two criteria and another rule are chosen."""
    known = {name: formatting.metric(name, unit) for name in AXES}
    axes: list[Row] = [
        {"name": name, "label": one.label, "unit": one.unit, "lower": not one.higher_is_better}
        for name, one in (known | COSTS).items()
    ]
    judged = figures.ordered(result)
    points: list[Row] = [
        {
            "name": one.name,
            "kind": "ensemble" if one.combined else "family",
            "values": {name: _bounded(one, name, of.factor) for name, of in known.items()}
            | {"parameters": [one.trainable_parameters], "seconds": _seconds(one, models)},
        }
        for one in judged
    ]
    data = {
        "axes": [axis for axis in axes if any(one["values"][axis["name"]] for one in points)],
        "points": points, "champion": result.champion.family, "rules": rules(result, config),
    }  # fmt: skip
    return templates.render(PAGE, result=result, size=figures.evidence(judged[0]), data=data)


def _bounded(one: Scores, metric: str, factor: float) -> list[float]:
    """Mean, and bounds if there are; empty if the mean is undefined."""
    found = one.intervals.get(metric)
    if found is None or found.mean is None:
        return []
    values = (found.mean, found.lower, found.upper)
    return [factor * value for value in values if value is not None]


def _seconds(one: Scores, models: Sequence[FoldModel]) -> list[float]:
    spent = [model.seconds for model in models if model.family in one.members]
    return [sum(known)] if (known := [each for each in spent if each is not None]) else []


def pareto(result: AnalysisResult) -> list[Row]:
    """Return, for each family and ensemble, which others are better in nothing less.

    Dice, clDice, MASD and parameters count; a family with an undefined mean cannot be on the front.
    """
    judged = figures.ordered(result)
    points = {one.name: _point(one) for one in judged}
    return [
        {
            "name": one.name,
            "dominated": [
                other.name for other in judged if _dominates(points[other.name], points[one.name])
            ],
        }
        for one in judged
    ]


def _point(one: Scores) -> list[float]:
    """What is traded, lower is better."""
    found = []
    for metric in TRADED:
        value = champion.mean(one, metric)
        gain = value if value is None or paired.lower_is_better(metric) else -value
        found.append(float("inf") if gain is None else gain)
    return [*found, float(one.trainable_parameters)]


def _dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))
