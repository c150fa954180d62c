"""The model card: what is served, how good it is, what it was made from, where it ends."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from minivess.contracts import (
    AnalysisResult,
    DatasetProfile,
    DeploymentResult,
    Interval,
    Scores,
)
from minivess.names import DISTANCES, METRICS


def render(result: DeploymentResult, profile: DatasetProfile, analysis: AnalysisResult) -> str:
    """The card as markdown."""
    sections = (
        _head(result, analysis),
        _data(profile),
        _performance(profile, analysis),
        _engines(result),
        _limits(profile, analysis),
        _lineage(result, profile, analysis),
    )
    return "\n\n".join(sections) + "\n"


def _head(result: DeploymentResult, analysis: AnalysisResult) -> str:
    champion = analysis.champion
    return (
        f"# {result.model_name}, version {result.model_version}\n\n"
        f"A 3-D segmentation network, `{champion.family}`, champion of the experiment "
        f"`{analysis.experiment}`. {champion.reason}\n\n"
        f"Served as `{result.bento_tag}`: NIfTI in, mask on the same grid or JSON out."
    )


def _data(profile: DatasetProfile) -> str:
    low, high = profile.spacing_range
    classes = ", ".join(str(value) for value in profile.classes)
    rows = (
        ("dataset", profile.dataset),
        ("version (DVC)", f"`{profile.dataset_hash}`"),
        ("volumes", f"{profile.n_volumes}, {len(profile.quarantined)} quarantined"),
        ("shapes (x, y, z)", f"{_triple(profile.min_shape)} to {_triple(profile.max_shape)}"),
        ("voxel sizes", f"{_triple(low)} to {_triple(high)} {_units(profile)}"),
        ("label values", f"{classes} (mapped: {profile.mapped})"),
    )
    return "## Training data\n\n" + _table(("", ""), rows)


def _performance(profile: DatasetProfile, analysis: AnalysisResult) -> str:
    champion = _judged(analysis)
    if champion is None:
        return "## Performance\n\nNot judged."
    shown = [name for name in METRICS if name in champion.intervals]
    called = next(iter(champion.intervals.values())).called
    test = next((one for one in analysis.test if one.name == champion.name), None)
    rows = [
        [
            f"{name} ({_units(profile)})" if name in DISTANCES else name,
            _interval(champion.intervals[name]),
            _number(analysis.untrained.get(name)),
            *([_interval(test.intervals[name])] if test else ()),
        ]
        for name in shown
    ]
    held_out = (
        f" The {len(test.volumes)} volumes of the test set took no part in training or in any "
        "choice; each was judged by each of these networks alone."
        if test
        else ""
    )
    heads = ["metric", "out of fold", "untrained", *(["test set"] if test else ())]
    return (
        f"## Performance\n\nMeans over {len(champion.volumes)} of {profile.n_volumes} volumes, "
        f"each judged by networks that had not seen it; brackets are the {called} over volumes. "
        f"The served network is one of them.{held_out}\n\n" + _table(heads, rows)
    )


def _engines(result: DeploymentResult) -> str:
    parity = result.parity
    rows = [
        (engine.name, f"{engine.size_mb:.1f}", f"{engine.seconds_per_volume:.2f}")
        for engine in result.engines
    ]
    return (
        "## Export\n\n"
        f"Compared with the trained network on {len(parity.volumes)} whole volumes: logits differ "
        f"by at most {parity.max_logit_difference:.1e}, masks agree on "
        f"{parity.mask_agreement:.4%} of the voxels. The running service answered "
        f"`{result.smoke.case}` in {result.smoke.seconds:.1f} s, agreeing on "
        f"{result.smoke.mask_agreement:.4%}.\n\n"
        + _table(("engine", "size, MB", "seconds per volume"), rows)
    )


def _limits(profile: DatasetProfile, analysis: AnalysisResult) -> str:
    low, high = profile.spacing_range
    points = [
        f"Voxel sizes outside of {_triple(low)} to {_triple(high)} {_units(profile)} and volumes "
        "from other instruments or tissues were not seen; nothing is resampled for them.",
        f"The figures rest on {profile.n_volumes} volumes; read the intervals, not the means.",
        "For research; not a medical device.",
        *_worst(analysis),
        *(f"Data: {warning}" for warning in profile.warnings[:5]),
    ]
    return "## Limits\n\n" + "\n".join(f"- {point}" for point in points)


def _worst(analysis: AnalysisResult) -> list[str]:
    champion, metric = _judged(analysis), "dice"
    if champion is None:
        return []
    scored = [(v.values.get(metric), v.case) for v in champion.volumes]
    known = sorted((value, case) for value, case in scored if value is not None)
    if not known:
        return []
    value, case = known[0]
    return [f"Its worst volume is `{case}`: {metric} {value:.3f}."]


def _lineage(result: DeploymentResult, profile: DatasetProfile, analysis: AnalysisResult) -> str:
    rows = (
        ("deployment run", result.run_id or "this run"),
        ("analysis run", result.analysis_run_id),
        ("training run", analysis.champion.run_id),
        ("data profile run", profile.run_id or "unknown"),
        ("data (DVC)", profile.dataset_hash),
    )
    coded = [(name, f"`{value}`") for name, value in rows]
    return (
        "## Lineage\n\n"
        + _table(("", ""), coded)
        + f"\n\n`minivess lineage {result.model_name}` walks the chain."
    )


def _judged(analysis: AnalysisResult) -> Scores | None:
    wanted = analysis.champion.family
    return next((family for family in analysis.families if family.name == wanted), None)


def _units(profile: DatasetProfile) -> str:
    return "/".join(sorted({volume.unit for volume in profile.volumes})) or "(unit not given)"


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


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
