"""The model card: what is served, its measured quality, its sources and its limits."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from minivess.contracts import (
    AnalysisResult,
    DatasetProfile,
    DeploymentResult,
    Interval,
    Scores,
    VolumeMetrics,
)
from minivess.names import DISTANCES, METRICS
from minivess.runtime import templates

TEMPLATE = Path(__file__).with_name("card.md.j2")


def render(result: DeploymentResult, profile: DatasetProfile, analysis: AnalysisResult) -> str:
    """Return the card as markdown."""
    judged = (*analysis.families, *analysis.ensembles)
    champion = _named(judged, analysis.champion.family)
    units = "/".join(sorted({volume.unit for volume in profile.volumes})) or "(unit not given)"
    low, high = profile.spacing_range
    return templates.render(
        TEMPLATE,
        result=result,
        profile=profile,
        analysis=analysis,
        champion=champion,
        test=_named(analysis.test, analysis.champion.family),
        called=next(iter(champion.intervals.values())).called if champion else "",
        worst=_worst(champion) if champion else None,
        units=units,
        spacings=f"{_triple(low)} to {_triple(high)} {units}",
        metrics=METRICS,
        distances=DISTANCES,
        triple=_triple,
        number=_number,
        interval=_interval,
    )


def _worst(champion: Scores) -> VolumeMetrics | None:
    """The volume with the lowest Dice."""
    scored = [(value, v) for v in champion.volumes if (value := v.values.get("dice")) is not None]
    return min(scored, key=lambda pair: (pair[0], pair[1].case), default=(None, None))[1]


def _named(scores: Iterable[Scores], name: str) -> Scores | None:
    return next((one for one in scores if one.name == name), None)


def _triple(values: Iterable[float]) -> str:
    return "(" + ", ".join(f"{value:.4g}" for value in values) + ")"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if 0 < abs(value) < 0.01 else f"{value:.3f}"


def _interval(interval: Interval) -> str:
    notes = [f"{interval.n_undefined} undefined"] * bool(interval.n_undefined)
    if interval.lower is not None and interval.upper is not None:
        notes.insert(0, f"{_number(interval.lower)} to {_number(interval.upper)}")
    return f"{_number(interval.mean)} ({', '.join(notes)})" if notes else _number(interval.mean)
