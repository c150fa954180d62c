"""The gallery: one page with every volume and its label, and plots of the dataset."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from minivess import files
from minivess.contracts import Case, DatasetProfile, VolumeStats
from minivess.review.pages.views import case_views, class_colours
from minivess.runtime import templates
from minivess.text import several

History = Mapping[str, Sequence[Mapping[str, Any]]]  # case -> decisions, oldest first

TEMPLATE = Path(__file__).with_name("gallery.html.j2")
SAID = {"accept": "accepted", "fix": "corrected"}
STATES = ("open", "out", "decided", "fine")  # the order of the cards


def render(
    profile: DatasetProfile,
    cases: Sequence[Case],
    path: Path,
    *,
    left_out: Sequence[Case] = (),
    history: History | None = None,
) -> Path:
    """Write one self-contained page: views of each volume, findings, decisions, commands.

    `left_out` are cases that are not in the profile, shown as far as they can be read; `history`
    holds the decisions that counted, by case.
    """
    by_case = {volume.case: volume for volume in profile.volumes}
    made = history or {}
    shown = [case for case in cases if case.case in by_case]
    cards = [
        _card(profile, case, by_case.get(case.case), made.get(case.case, []))
        for case in sorted([*shown, *left_out], key=lambda case: case.case)
    ]
    names = {card["case"] for card in cards}
    text = templates.render(
        TEMPLATE,
        anchor=lambda name: "v-" + re.sub(r"[^A-Za-z0-9_.-]", "-", name),
        profile=profile,
        cards=sorted(cards, key=lambda card: STATES.index(card["state"])),
        strips=_strips(profile, {card["case"]: card["state"] for card in cards}),
        waiting=sum(bool(card["waits"]) for card in cards),
        decided_count=len(made),
        others=[f for f in profile.findings if f.case not in names],
        memory=_memory(profile.total_size_gb),
        colours=class_colours(profile.classes),
    )
    return files.write_text(path, text)


def plots(profile: DatasetProfile, folder: Path) -> list[Path]:
    """Write the figures shapes.png, spacings.png, intensities.png and foreground.png."""
    volumes, places = profile.volumes, range(profile.n_volumes)
    units = ", ".join(sorted({volume.unit for volume in volumes}))
    foreground = [100 * volume.foreground_ratio for volume in volumes]
    drawn: dict[str, tuple[str, str, Callable[[Any], object]]] = {
        "shapes": ("shapes", "voxels", lambda axes: _lines(axes, [v.shape for v in volumes])),
        "spacings": (
            "voxel size", units, lambda axes: _lines(axes, [v.voxel_spacing for v in volumes]),
        ),
        "intensities": (
            "intensities", "raw value, 0.5 to 99.5 %",
            lambda axes: axes.bxp(_boxes(volumes), positions=places, showfliers=False),
        ),
        "foreground": ("foreground", "% of voxels", lambda axes: axes.bar(places, foreground)),
    }  # fmt: skip
    return [_figure(profile, *how, folder / f"{name}.png") for name, how in drawn.items()]


# --- cards --------------------------------------------------------------------------------


def _card(
    profile: DatasetProfile,
    case: Case,
    volume: VolumeStats | None,
    history: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    findings = [f for f in profile.findings if f.case == case.case and f.code != "rejected"]
    flagged = any(finding.severity != "info" for finding in findings)
    state = "fine"
    label = "in the set"
    if volume is None:
        state, label = "out", "rejected" if history else "left out"
    elif history:
        state, label = "decided", SAID[history[-1]["verdict"]]
    elif flagged:
        state, label = "open", "in the set, flagged"
    return {
        "case": case.case,
        "volume": volume,
        "state": state,
        "label": label,
        "waits": flagged and not history,
        "findings": findings,
        "history": history,
        "views": case_views(case, volume, profile.label_map),
        "commands": _commands(profile.dataset, case.case, decided=bool(history)),
    }


def _commands(dataset: str, case: str, *, decided: bool) -> dict[str, str]:
    name, where = shlex.quote(case), f"--dataset {shlex.quote(dataset)} --why '...'"
    found = {
        "put it in": f"minivess review accept {name} {where}",
        "leave it out": f"minivess review reject {name} {where}",
        "correct it": f"minivess review fix {name} --label FILE {where}",
    }
    return {**found, "start over": f"minivess review reopen {name} {where}"} if decided else found


def _memory(gib: float) -> str:
    return f"{gib:.3g} GiB" if gib >= 1 else f"{1024 * gib:.3g} MiB"


def _strips(profile: DatasetProfile, states: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return a line for each property, with a dot for each volume."""
    volumes = profile.volumes
    unit = ", ".join(sorted({volume.unit for volume in volumes}))
    series: list[tuple[str, str, list[float]]] = [
        ("In-plane size", "voxels along x", [float(v.shape[0]) for v in volumes]),
        ("Depth", "voxels along z", [float(v.shape[2]) for v in volumes]),
        ("Voxel size", f"{unit} along x", [v.voxel_spacing[0] for v in volumes]),
        ("Slice distance", f"{unit} along z", [v.voxel_spacing[2] for v in volumes]),
        ("Mean intensity", "raw value", [v.intensity_mean for v in volumes]),
        ("Foreground", "% of voxels", [100 * v.foreground_ratio for v in volumes]),
    ]
    return [_strip(profile, *line, states) for line in series]


def _strip(
    profile: DatasetProfile,
    name: str,
    unit: str,
    values: Sequence[float],
    states: Mapping[str, str],
) -> dict[str, Any]:
    low, high = min(values), max(values)
    at = [100 * (value - low) / (high - low) if high > low else 50.0 for value in values]
    dots = [
        {"case": v.case, "state": states.get(v.case, "fine"), "value": value, "at": place}
        for v, value, place in zip(profile.volumes, values, at, strict=True)
    ]
    return {"name": name, "unit": unit, "low": low, "high": high, "dots": dots}


# --- plots --------------------------------------------------------------------------------


def _figure(
    profile: DatasetProfile, what: str, unit: str, draw: Callable[[Any], object], path: Path
) -> Path:
    from matplotlib.figure import Figure

    figure, cases = Figure(figsize=(8, 4), layout="constrained"), profile.volumes
    axes = figure.subplots()
    draw(axes)
    axes.set_title(f"{profile.dataset}: {what}")
    axes.set_ylabel(unit)
    if len(cases) <= 40:
        axes.set_xticks(range(len(cases)), [v.case for v in cases], rotation=90, fontsize=7)
    else:
        axes.set_xticks([])
        axes.set_xlabel(f"{several(len(cases), 'volume')}")
    return files.write(path, lambda temporary: figure.savefig(temporary, dpi=120))


def _lines(axes: Any, rows: Sequence[Sequence[float]]) -> None:
    axes.plot(rows, "o-", label=[*"xyz"], markersize=4)
    axes.legend()


def _boxes(volumes: Sequence[VolumeStats]) -> list[dict[str, float]]:
    """Return box plots: whiskers from the 0.5 to the 99.5 percentile, boxes at the quartiles."""
    edges = {"whislo": "0.5", "q1": "25", "med": "50", "q3": "75", "whishi": "99.5"}
    return [{edge: v.percentiles[q] for edge, q in edges.items()} for v in volumes]
