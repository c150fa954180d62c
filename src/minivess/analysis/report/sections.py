"""Content of the report's sections as rows and sentences; numbers are already formatted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from minivess import names
from minivess.analysis import champion, formatting
from minivess.analysis.report import figures
from minivess.contracts import (
    AnalysisResult,
    Comparison,
    DatasetProfile,
    FoldModel,
    Interval,
    Scores,
    VolumeStats,
)
from minivess.evaluation.statistics import holm
from minivess.text import several

HEADLINE = ("dice", "cldice", names.PRIMARY, "masd")
# F1 of voxels equals Dice; it is in the CSV.
COLUMNS = (names.PRIMARY, "dice", "cldice", "masd", "hd95", "nsd")
Row = dict[str, Any]
PROPERTIES: dict[str, Callable[[VolumeStats], float]] = {
    "finest voxel edge": lambda one: min(one.voxel_spacing),
    "slices": lambda one: one.shape[2],
    "foreground share": lambda one: one.foreground_ratio,
    "brightness": lambda one: one.intensity_mean,
}
"""By which segments of a dataset are compared."""
FEWEST_SEGMENTED = 6


def headline(result: AnalysisResult, unit: formatting.Unit) -> list[Row]:
    """Return the champion's main metrics, with those of the untrained network."""
    best = result.winner
    cards = []
    for name in HEADLINE:
        interval = best.intervals.get(name)
        if interval is None or interval.mean is None:
            continue
        known, before = formatting.metric(name, unit), result.untrained.get(name)
        threshold = result.baseline.intervals.get(name) if result.baseline else None
        reach = 1.0 if not known.unit else 1.05 * max(before or 0, interval.upper or interval.mean)
        cards.append(
            {
                "label": known.label,
                "unit": known.unit,
                "meaning": known.meaning,
                "value": known.number(interval.mean),
                **_about_mean(interval, known.number),
                "before": known.number(before),
                "threshold": known.number(threshold.mean) if threshold else "",
                "bar": _bar(interval, before, reach),
            }
        )
    return cards


def _bar(interval: Interval, before: float | None, reach: float) -> Row:
    """Positions on a line from 0 to `reach`, in percent."""

    def place(value: float | None) -> float | None:
        return None if value is None else round(100 * min(max(value / (reach or 1), 0), 1), 2)

    return {
        "mean": place(interval.mean),
        "lower": place(interval.lower),
        "upper": place(interval.upper),
        "before": place(before),
    }


def comparison(result: AnalysisResult, models: Sequence[FoldModel], unit: formatting.Unit) -> Row:
    """Return the table of families, ensembles and the untrained network."""
    best = result.winner
    metrics = [name for name in COLUMNS if champion.mean(best, name) is not None]
    return {
        "columns": [_column(name, unit) for name in metrics],
        "called": best.intervals[names.PRIMARY].called,
        "compared": formatting.metric(result.champion.metric).label,
        "rows": [
            {
                "name": one.name,
                "about": _about(one, models, result),
                "kind": _kind(one, best),
                "parameters": formatting.count(one.trainable_parameters),
                "n": one.intervals[names.PRIMARY].n,
                "cells": [_cell(one, name, unit) for name in metrics],
                "difference": _difference(result.comparison(one.name, best.name)),
            }
            for one in figures.ordered(result)
        ],
        "untrained": [
            formatting.metric(name, unit).number(result.untrained.get(name)) for name in metrics
        ]
        if result.untrained
        else None,
        "threshold": [_cell(result.baseline, name, unit) for name in metrics]
        if result.baseline
        else None,
    }


def _column(name: str, unit: formatting.Unit) -> Row:
    known = formatting.metric(name, unit)
    return {
        "label": known.label,
        "unit": known.unit,
        "arrow": "↑" if known.higher_is_better else "↓",
        "meaning": known.meaning,
    }


def _kind(one: Scores, best: Scores) -> str:
    if one is best:
        return "champion"
    return "ensemble" if one.combined else "family"


MADE = {
    "mean": "mean probability of {}",
    "vote": "majority vote of {}, ties to the higher mean probability",
    "soup": "averaged weights of {}",
    "greedy": "mean probability of {}, chosen on the other folds",
}


def _gain(one: Scores, result: AnalysisResult) -> str:
    """What an ensemble gains over the best of its members."""
    metric = result.champion.metric
    best = next(member for member in figures.ordered(result) if member.name in one.members)
    gap = result.comparison(one.name, best.name)
    if gap is None or gap.difference.mean is None:
        return f"not compared with its members in {metric}"
    bounds = _range(gap.difference, formatting.signed).replace(formatting.DASH, " to ")
    return f"{formatting.signed(gap.difference.mean)} ({bounds}) over {best.name}"


def _about(one: Scores, models: Sequence[FoldModel], result: AnalysisResult) -> str:
    if one.combined:
        return f"{MADE[one.how].format(several(len(one.members), 'family'))}; {_gain(one, result)}"
    for model in models:
        if model.family == one.name:
            spec = model.spec
            mixed = f" · {spec.loss.formula}" if len(spec.loss.terms) > 1 else ""
            return f"{spec.network.family}{mixed} · seed {spec.seed}"
    return ""


def _difference(compared: Comparison | None) -> Row | None:
    if compared is None:
        return None
    gap = compared.difference
    return {
        "value": formatting.signed(gap.mean),
        "bounds": _range(gap, formatting.signed).replace(formatting.DASH, " to "),
        "tied": compared.tied,
    }


def _cell(one: Scores, metric: str, unit: formatting.Unit) -> Row:
    interval, spell = one.intervals.get(metric), formatting.metric(metric, unit).number
    if interval is None:
        return {"value": formatting.UNDEFINED, "bounds": "", "undefined": ""}
    return {"value": spell(interval.mean), **_about_mean(interval, spell)}


def _about_mean(interval: Interval, spell: Callable[[float | None], str]) -> Row:
    return {"bounds": _range(interval, spell), "undefined": formatting.undefined(interval)}


def _range(interval: Interval, spell: Callable[[float | None], str]) -> str:
    if interval.lower is None or interval.upper is None:
        return ""
    between = formatting.DASH if interval.lower >= 0 else " to "
    return f"{spell(interval.lower)}{between}{spell(interval.upper)}"


def test(result: AnalysisResult, unit: formatting.Unit) -> Row | None:
    """Return the table of the held-out test set, in the order of the other table."""
    if not result.test:
        return None
    places = [one.name for one in figures.ordered(result)]
    # What only the test set can judge comes last.
    rank = {name: place for place, name in enumerate(places)}
    ordered = sorted(result.test, key=lambda one: rank.get(one.name, len(places)))
    return {"sentence": test_sentence(result), **_table(ordered, COLUMNS, result, unit)}


def topology(result: AnalysisResult, unit: formatting.Unit) -> Row | None:
    """Return the table of errors of topology by their number."""
    found = _table(figures.ordered(result), names.COUNTS, result, unit)
    return found if found["columns"] else None


def _table(
    judged: Sequence[Scores], metrics: Sequence[str], result: AnalysisResult, unit: formatting.Unit
) -> Row:
    metrics = [name for name in metrics if name in judged[0].intervals]
    return {
        "columns": [_column(name, unit) for name in metrics],
        "rows": [
            {
                "name": one.name,
                "kind": "champion" if one.name == result.champion.family else "",
                "cells": [_cell(one, name, unit) for name in metrics],
            }
            for one in judged
        ],
    }


def test_sentence(result: AnalysisResult) -> str:
    """Describe the test set and how it was evaluated."""
    return (
        f"Held-out test set, {figures.evidence(result.test[0])}: no part in training, in any "
        "choice, or in the figures above. Each volume was judged by each fold's network alone, as "
        "one network is what is served; its values are their means. A fold_soup is one network of "
        "the folds' averaged weights, which can be judged here alone."
    )


def per_class(result: AnalysisResult, unit: formatting.Unit) -> Row | None:
    """Return the champion's metrics per class; None with one class."""
    best = result.winner
    values = sorted(
        {int(name.partition("_class")[2]) for name in best.intervals if "_class" in name}
    )
    if not values:
        return None
    return {
        "columns": [_column(name, unit) for name in COLUMNS],
        "rows": [
            {
                "name": f"class {value}",
                "cells": [_cell(best, f"{name}_class{value}", unit) for name in COLUMNS],
            }
            for value in values
        ],
    }


def volumes(result: AnalysisResult, profile: DatasetProfile, unit: formatting.Unit) -> Row:
    """Return every volume with the champion's metrics, hardest first."""
    best = result.winner
    stats = {volume.case: volume for volume in profile.volumes}
    metrics = [name for name in COLUMNS if champion.mean(best, name) is not None]
    rows = []
    for one in figures.worst_first(best):
        known = stats.get(one.case)
        rows.append(
            {
                "case": one.case,
                "group": one.group or "",
                "shape": formatting.shape(known.shape) if known else "",
                "spacing": formatting.spacing(known.voxel_spacing, unit) if known else "",
                "faults": [_faults(result, one.case, ends) for ends in ("break", "merge")],
                "foreground": f"{100 * known.foreground_ratio:.1f} %" if known else "",
                "cells": [
                    formatting.metric(name, unit).number(one.values.get(name)) for name in metrics
                ],
            }
        )
    return {
        "columns": [_column(name, unit) for name in metrics],
        "grouped": any(row["group"] for row in rows),
        "rows": rows,
    }


def segments(best: Scores, profile: DatasetProfile) -> list[Row]:
    """Return Dice of volumes below and above the middle of each property, over independent units.

    Properties that are equal everywhere are left out, all of them below six units.
    """
    from scipy import stats

    known = {one.case: one for one in profile.volumes}
    units: dict[str, list[list[float]]] = {}
    for one in best.volumes:
        dice = one.values.get("dice")
        if dice is not None and one.case in known:
            row = [dice, *(of(known[one.case]) for of in PROPERTIES.values())]
            units.setdefault(one.group or one.case, []).append(row)
    found: dict[str, tuple[float, list[float], list[float]]] = {}
    means = np.array([np.mean(rows, axis=0) for rows in units.values()])
    for column, name in enumerate(PROPERTIES if len(means) >= FEWEST_SEGMENTED else (), start=1):
        middle = float(np.median(means[:, column]))
        above = means[:, column] > middle
        low, high = means[~above, 0], means[above, 0]
        if len(low) and len(high):
            found[name] = (middle, list(low), list(high))
    chances = holm([float(stats.mannwhitneyu(low, high).pvalue) for _, low, high in found.values()])
    return [
        {
            "property": name,
            "middle": f"{middle:.4g}",
            "sides": [(formatting.number(float(np.mean(side))), len(side)) for side in (low, high)],
            "difference": formatting.signed(float(np.mean(high) - np.mean(low))),
            "p": formatting.number(chance),
        }
        for (name, (middle, low, high)), chance in zip(found.items(), chances, strict=True)
    ]


def _faults(result: AnalysisResult, case: str, ends: str) -> int:
    return sum(one.case == case and one.kind == f"false {ends}" for one in result.faults)


def data(profile: DatasetProfile, unit: formatting.Unit) -> list[tuple[str, str]]:
    """Return the facts of the dataset as (name, value)."""
    low, high = profile.spacing_range
    shapes = f"{formatting.shape(profile.min_shape)} to {formatting.shape(profile.max_shape)}"
    foreground = sorted(volume.foreground_ratio for volume in profile.volumes)
    groups = {volume.group for volume in profile.volumes} - {None}
    between = "" if low == high else f"{formatting.spacing(low, unit)} to "
    uneven = "anisotropic" if profile.is_anisotropic else "near isotropic"
    facts = [
        ("Dataset", profile.dataset),
        ("Volumes", f"{profile.n_volumes}" + (f" in {len(groups)} groups" if groups else "")),
        ("Shapes", f"{shapes}, median {formatting.shape(profile.median_shape)} voxels"),
        ("Voxels", f"{between}{formatting.spacing(high, unit)} {unit.name}, {uneven}"),
        ("Foreground", _foreground(foreground)),
        ("Classes", ", ".join(map(str, profile.classes))),
        ("Label map", profile.mapped if profile.label_map else ""),
        ("Size", f"{_size(profile.total_size_gb)} as float32"),
        ("Quarantined", ", ".join(profile.quarantined)),
        ("Outliers", ", ".join(profile.outliers)),
    ]
    return [(name, value) for name, value in facts if value]


def _size(gigabytes: float) -> str:
    return f"{gigabytes:.3g} GB" if gigabytes >= 1 else f"{1000 * gigabytes:.3g} MB"


def _foreground(ratios: Sequence[float]) -> str:
    if not ratios:
        return ""
    low, middle, high = ratios[0], ratios[len(ratios) // 2], ratios[-1]
    return f"{100 * low:.1f} to {100 * high:.1f} % of the voxels, median {100 * middle:.1f} %"


def lineage(
    result: AnalysisResult,
    profile: DatasetProfile,
    models: Sequence[FoldModel],
    links: Mapping[str, str],
) -> list[Row]:
    """Return the chain from this report to the data version."""
    named = {model.parent_run_id: model.family for model in models}
    trained = [
        ("Training run", run_id, named.get(run_id, "") + _crowned(run_id, result))
        for run_id in result.training_run_ids
    ]
    chain = [
        ("Analysis run", result.run_id or "", "this report"),
        *trained,
        ("Profile run", profile.run_id or "", profile.dataset),
        ("Data version", result.dataset_hash, "DVC hash of the curated folder"),
    ]
    return [
        {"what": what, "id": value, "note": note, "link": links.get(value)}
        for what, value, note in chain
        if value
    ]


def _crowned(run_id: str, result: AnalysisResult) -> str:
    return ", champion" if run_id == result.champion.run_id else ""
