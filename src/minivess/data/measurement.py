"""One volume in numbers, at native resolution."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from minivess import files, keys
from minivess.config import DataConfig
from minivess.contracts import Case, Finding, Shape, Spacing, VolumeStats
from minivess.data import quality
from minivess.data.filenames import curated_names
from minivess.data.volume import Array, DimensionsError, read, relabel, whole
from minivess.errors import DataError

PERCENTILES = (0.5, 5.0, 25.0, 50.0, 75.0, 95.0, 99.5)
CHUNK = 1 << 22  # voxels counted at once; bincount widens them to 8 bytes

Result = tuple[VolumeStats | None, list[Finding]]


def measure(case: Case, *, config: DataConfig, accepted: bool = False) -> Result:
    """Measure one volume at native resolution; None where a file cannot be used at all.

    Of a volume that review accepted, errors count as warnings where it can be used.
    """
    try:
        image, label = read(case.image), read(cast(Path, case.label))
    except DataError as error:
        code = "wrong_dimensions" if isinstance(error, DimensionsError) else "unreadable"
        return None, [_error(case, code, error)]
    try:
        classes = relabel(whole(label.array, cast(Path, case.label)), config.label_map)
    except DataError as error:
        return None, [_error(case, "label_values", error)]
    findings = quality.check(case.case, image, label, classes)
    if accepted:
        findings = [_despite(finding) for finding in findings]
    if any(finding.severity == "error" for finding in findings):
        return None, findings
    return _stats(case, image.array, classes, (image.spacing, image.unit)), findings


def _error(case: Case, code: str, error: DataError) -> Finding:
    return quality.finding(code, "error", error.problem, error.remedy).replace(case=case.case)


def _despite(finding: Finding) -> Finding:
    acceptable = finding.severity == "error" and finding.code not in quality.BEYOND_ACCEPTING
    return finding.replace(severity="warning") if acceptable else finding


def _stats(case: Case, image: Array, classes: Array, geometry: tuple[Spacing, str]) -> VolumeStats:
    import cc3d

    label = cast(Path, case.label)
    spacing, unit = geometry
    foreground = classes != 0
    _, components = cc3d.connected_components(foreground, connectivity=26, return_N=True)
    return VolumeStats(
        case=case.case,
        filename=curated_names(case)[0],
        label_filename=curated_names(case)[1],
        group=case.group,
        shape=cast(Shape, image.shape),
        voxel_spacing=spacing,
        unit=unit,
        dtype=str(image.dtype),
        foreground_ratio=float(foreground.mean()),
        label_values=tuple(int(value) for value in np.unique(classes)),
        components=int(components),
        size_bytes=case.image.stat().st_size + label.stat().st_size,
        content_hash=keys.digest([files.md5(case.image), files.md5(label)]),
        **intensities(image),
    )


def intensities(image: Array) -> dict[str, Any]:
    """Exact range, mean, standard deviation and percentiles of raw values.

    Integers of 8 and 16 bits take one counting pass instead of a sort.
    """
    if image.dtype.kind in "iu" and image.dtype.itemsize <= 2:
        low = int(np.iinfo(image.dtype).min)
        counts = _counts(image.ravel(order="K"), low)
        values = np.arange(counts.size, dtype=np.float64) + low
    else:
        values, counts = np.unique(image.astype(np.float64), return_counts=True)
    present = counts > 0
    values, counts = values[present], counts[present]
    n = int(counts.sum())
    mean = float((values * counts).sum() / n)
    return {
        "intensity_min": float(values[0]),
        "intensity_max": float(values[-1]),
        "intensity_mean": mean,
        "intensity_std": float(np.sqrt(((values - mean) ** 2 * counts).sum() / n)),
        "percentiles": {f"{q:g}": _percentile(values, counts, q) for q in PERCENTILES},
    }


def _counts(flat: Array, low: int) -> npt.NDArray[np.int64]:
    width = 1 << (8 * flat.dtype.itemsize)
    counts = np.zeros(width, dtype=np.int64)
    for start in range(0, flat.size, CHUNK):
        chunk = flat[start : start + CHUNK].astype(np.int64) - low
        counts += np.bincount(chunk, minlength=width)
    return counts


def _percentile(values: npt.NDArray[np.float64], counts: npt.NDArray[np.int64], q: float) -> float:
    """The q-th percentile of a histogram, interpolated linearly as numpy does."""
    ends = np.cumsum(counts)
    position = q / 100 * (int(ends[-1]) - 1)
    below = int(np.floor(position))
    first, second = values[
        np.searchsorted(ends, [below, below + 1], side="right").clip(max=len(values) - 1)
    ]
    return float(first + (second - first) * (position - below))
