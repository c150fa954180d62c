"""Checks of volumes, alone and within their dataset, as findings.

An error keeps a volume out of everything that follows; a warning does not.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from minivess import units
from minivess.contracts import Finding, LabelMap, Pairing, Severity, VolumeStats
from minivess.data.checks import finding
from minivess.data.profiling import labels
from minivess.data.profiling.admission import check_array
from minivess.data.profiling.duplicates import find_duplicates
from minivess.data.profiling.grids import (
    align_label,
    describe_mismatch,
    is_grid,
    same_place,
    voxel_size_text,
)
from minivess.data.profiling.intensities import SortedValues
from minivess.formats.decode import Array, Volume
from minivess.formats.filenames import PASSED_OVER, stem, unread_format, unread_formats
from minivess.formats.volume import is_corrected, is_own_mask
from minivess.text import several

FEW_FOR_OUTLIERS = 5  # below this a median absolute deviation means nothing
SMALLEST, LARGEST = 1e-3, 1e5  # micron
LARGEST_TILT = 1.0  # degree; headers of straight grids jitter far below
LEFTOVER = re.compile(r"(\.(lock|lck|tmp|temp|part|partial|crdownload|swp)|~)$|^~\$")


def check(
    case: str,
    volume: Volume,
    label: Volume,
    classes: Array,
    values: SortedValues,
    *,
    ignores: bool = False,
    stored: Volume | None = None,
) -> list[Finding]:
    """Check one volume and its label.

    Args:
        label: the label as stored, which may lie on flipped or exchanged axes.
        classes: its values (X, Y, Z) after the label map.
        values: the sorted values of the image.
        ignores: whether the label map maps values to IGNORED.
        stored: the image as in its file, if `data.spacing` gave `volume` another voxel size.
    """
    original = stored or volume
    found = [
        *check_image(volume, (values.low, values.high)),
        *_pair(original, align_label(label, original), label),
        *(
            _remark(code, f"Its label: {said}", label)
            for code, said in label.remarks
            if (code, said) not in volume.remarks
        ),
        *labels.check_label(volume, label, classes, ignores=ignores),
    ]
    return [finding.replace(case=case) for finding in found]


def check_image(volume: Volume, span: tuple[float, float] | None = None) -> list[Finding]:
    """Check an image alone, as profile, predict and service do alike."""
    return [*check_array(volume.array, span), *_geometry(volume)]


def check_set(
    stats: Sequence[VolumeStats],
    signatures: Mapping[str, str],
    *,
    outlier_z: float,
    label_map: LabelMap | None = None,
) -> list[Finding]:
    """Check volumes against each other: duplicates, outliers, label values."""
    return [
        *_alike(stats, signatures),
        *_outliers(stats, outlier_z),
        *_units(stats),
        *labels.check_labels(stats, label_map or {}),
    ]


def check_pairing(pairing: Pairing) -> list[Finding]:
    """Find images without a label, labels without an image, and files that are not read."""
    taken = {case.case for case in pairing.cases}
    found = [
        *_each("missing_label", pairing.unpaired_images, "{} has no label, so it is left out."),
        *_each("extra_label", pairing.unpaired_labels, "{} is a label without an image."),
    ]
    broken = [
        path
        for path in pairing.left
        if path.is_symlink() and not path.exists() and not unread_format(path)
    ]
    leftover = [path for path in pairing.left if LEFTOVER.search(path.name)]
    found += _each("broken_link", broken, "{} is a link that leads nowhere.")
    for what, remedy, paths in unread_formats(pairing.left):
        if what not in PASSED_OVER:
            more = f" and {len(paths) - 1} more are" if len(paths) > 1 else " is"
            problem = f"{paths[0].name}{more} not read: {what}."
            found.append(finding("unread_format", problem, remedy=remedy))
    labels = [case.label for case in pairing.cases if case.label]
    ours = [label for label in labels if is_own_mask(label) and not is_corrected(label)]
    if ours:
        count = several(len(ours), "label", "were")
        problem = f"{count} written by `minivess predict`, {ours[0].name} first."
        found.append(finding("predicted_label", problem))
    found += _each("leftover_file", leftover, "{} is a lock or an unfinished file.")
    # A file elsewhere may have the name of a case; its finding is not about that case.
    found = [f.replace(case=None) if f.case in taken else f for f in found]
    return [*found, *pairing.findings]


def _each(code: str, paths: Iterable[Path], text: str) -> list[Finding]:
    return [
        finding(code, text.format(f"{path.parent.name}/{path.name}"), case=stem(path))
        for path in paths
    ]


# --- one volume ---------------------------------------------------------------------------


def _geometry(volume: Volume) -> Iterator[Finding]:
    spacing = voxel_size_text(volume)
    if not volume.spacing_known and is_grid(volume):
        problem = "The file does not state a voxel size in a unit of length along every axis; "
        yield finding("unknown_spacing", f"{problem}{spacing} is used.")
    if not _plausible(volume):
        problem = f"The header gives a voxel size of {spacing}."
        severity: Severity = "warning" if is_grid(volume) else "error"
        yield finding("implausible_spacing", problem, severity=severity)
    yield from (_remark(code, message, volume) for code, message in volume.remarks)
    if (tilt := _tilt(volume)) > LARGEST_TILT:
        problem = f"Axes of the grid are {tilt:.1f} degrees from right angles."
        yield finding("sheared_affine", problem)


def _remark(code: str, message: str, volume: Volume) -> Finding:
    """Make a finding of what a reader remarked; its remedy names the unit of the file."""
    made = finding(code, message)
    known = volume.unit if volume.unit in units.KEPT else "micron"
    return made.replace(remedy=made.remedy.replace("data.unit=micron", f"data.unit={known}"))


def _tilt(volume: Volume) -> float:
    """Return the largest deviation of two axes from a right angle, in degrees."""
    axes = volume.affine[:3, :3]
    lengths = np.linalg.norm(axes, axis=0)
    if not np.isfinite(lengths).all() or not lengths.all():
        return 0.0
    cosines = np.abs((axes / lengths).T @ (axes / lengths) - np.eye(3))
    return float(np.degrees(np.arcsin(min(cosines.max(), 1.0))))


def _pair(volume: Volume, label: Volume, stored: Volume) -> list[Finding]:
    """Check the label as used against its image; `stored` is the label as in its file."""
    if volume.shape != label.shape:
        problem = f"The image has shape {volume.shape}, its label {label.shape}."
        return [finding("shape_mismatch", problem)]
    if label is not stored:
        problem = "The label is stored with flipped or exchanged axes, and its header says so."
        return [finding("reoriented", f"{problem} It was brought onto the image's grid.")]
    if not (label.placed and volume.placed):  # one of them has sizes only
        label, volume = (
            replace(each, affine=np.diag([*each.spacing, 1.0])) for each in (label, volume)
        )
    comparable = (label.placed and volume.placed) or (label.spacing_known and volume.spacing_known)
    if comparable and not same_place(label, volume):
        problem = f"Image and label have one shape, but {describe_mismatch(label, volume)}."
        return [finding("affine_mismatch", problem)]
    return []


def _plausible(volume: Volume) -> bool:
    scale = units.in_micron(volume.unit)
    low, high = (SMALLEST, LARGEST) if scale else (0.0, math.inf)
    return is_grid(volume) and all(low < step * (scale or 1.0) < high for step in volume.spacing)


# --- the set ------------------------------------------------------------------------------


def _alike(stats: Sequence[VolumeStats], signatures: Mapping[str, str]) -> list[Finding]:
    """Find duplicates; within one group they stay on one side of any split."""
    found: dict[str, Finding] = {}
    copies = dict.fromkeys(_copies(stats), "holds the same voxels as {}")
    shown = {v.case: (v.shape, signatures[v.case]) for v in stats if v.case in signatures}
    near = {(match.first, match.second): match.how for match in find_duplicates(shown)}
    groups = {volume.case: volume.group for volume in stats}

    def together(pair: tuple[str, str]) -> bool:
        return groups[pair[0]] is not None and groups[pair[0]] == groups[pair[1]]

    pairs = {**copies, **near, **copies}
    for pair, how in sorted(pairs.items(), key=lambda item: together(item[0])):  # leaks first
        leak = (
            "both are of one group" if together(pair) else "one may train what the other validates"
        )
        found.setdefault(
            pair[1],
            finding(
                "duplicate" if pair in copies else "near_duplicate",
                f"It {how.format(pair[0])}: {leak}.",
                case=pair[1],
                severity="info" if together(pair) else "warning",
            ),
        )
    return list(found.values())


def _copies(stats: Sequence[VolumeStats]) -> Iterable[tuple[str, str]]:
    """Yield pairs with equal bytes, or equal voxels stored otherwise or with another label."""
    first: dict[object, str] = {}
    for volume in stats:
        original = next((first[mark] for mark in _marks(volume) if mark in first), None)
        for mark in _marks(volume):
            first.setdefault(mark, volume.case)
        if original is not None:
            yield original, volume.case


def _marks(volume: VolumeStats) -> tuple[object, object]:
    numbers = (volume.intensity_mean, volume.intensity_std, *volume.percentiles.values())
    return volume.content_hash, (volume.shape, numbers)


def _outliers(stats: Sequence[VolumeStats], limit: float) -> list[Finding]:
    """Find volumes far from the rest by robust z-score (Iglewicz and Hoaglin 1993)."""
    if len(stats) < FEW_FOR_OUTLIERS:
        return []
    look = "look at it in the gallery; remove it from data.root if it is foreign, or raise"
    return [
        finding(
            "outlier",
            f"Its {name} is far from the rest of the set (robust z {score:+.1f}).",
            case=volume.case,
            remedy=f"{look} data.outlier_z={limit:g}",
        )
        for name, values, floor in _properties(stats)
        for volume, score in zip(stats, robust_z(values, floor), strict=True)
        if abs(score) > limit
    ]


def _units(stats: Sequence[VolumeStats]) -> Iterator[Finding]:
    """Find several units: distances in the unit of each volume cannot be averaged."""
    named = sorted({volume.unit for volume in stats})
    if len(named) > 1:
        problem = f"Volumes state their voxel sizes in several units ({', '.join(named)})."
        yield finding("mixed_units", problem)


def _properties(
    stats: Sequence[VolumeStats],
) -> Iterable[tuple[str, npt.NDArray[np.float64], float]]:
    """Yield name, one value for each volume, and the smallest spread that counts."""
    for axis, letter in enumerate("xyz"):
        spacing = [v.voxel_spacing[axis] * (units.in_micron(v.unit) or 1.0) for v in stats]
        yield f"spacing along {letter}", np.log(np.maximum(spacing, 1e-12)), 0.05
        yield f"size along {letter}", np.log([v.shape[axis] for v in stats]), 0.1
    mean = np.array([v.intensity_mean for v in stats])
    yield "mean intensity", mean, 0.05 * float(np.abs(np.median(mean))) or 1e-12
    yield "share of foreground", np.log([v.foreground_ratio + 1e-4 for v in stats]), 0.1


def robust_z(values: npt.NDArray[np.float64], floor: float) -> npt.NDArray[np.float64]:
    """Return 0.6745 (x - median) / MAD; the MAD is at least `floor`, as headers often agree."""
    centre = np.median(values)
    spread = max(float(np.median(np.abs(values - centre))), floor)
    return np.asarray(0.6745 * (values - centre) / spread, dtype=np.float64)
