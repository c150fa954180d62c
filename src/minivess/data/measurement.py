"""One volume in numbers, at native resolution, from one reading of its files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from minivess import files, keys
from minivess.config import DataConfig
from minivess.contracts import Case, Finding, VolumeStats
from minivess.data import quality
from minivess.data.checks import finding
from minivess.data.filenames import curated_names
from minivess.data.intensities import spread
from minivess.data.volume import Array, DimensionsError, read, relabel, whole
from minivess.errors import DataError

Result = tuple[VolumeStats | None, list[Finding]]


def measure(case: Case, *, config: DataConfig, hashes: Sequence[str] | None = None) -> Result:
    """Measure one volume at native resolution; None where nobody's decision could make it usable.

    `hashes` are the md5 of image and label, where they are known already.
    """
    path = cast(Path, case.label)
    try:
        image, label = read(case.image), read(path)
    except DataError as error:
        code = "wrong_dimensions" if isinstance(error, DimensionsError) else "unreadable"
        return None, [_error(case, code, error)]
    try:
        classes = relabel(whole(label.array, path), config.label_map)
    except DataError as error:
        return None, [_error(case, "label_values", error)]
    values = spread(image.array)
    findings = quality.check(case.case, image, label, classes, values)
    if any(finding.code in quality.BEYOND_ACCEPTING for finding in findings):
        return None, findings
    return VolumeStats(
        case=case.case,
        filename=curated_names(case)[0],
        label_filename=curated_names(case)[1],
        group=case.group,
        shape=image.shape,
        voxel_spacing=image.spacing,
        unit=image.unit,
        dtype=str(image.array.dtype),
        size_bytes=case.image.stat().st_size + path.stat().st_size,
        content_hash=keys.digest(list(hashes or (files.md5(case.image), files.md5(path)))),
        **values.numbers(),
        **foreground(classes),
    ), findings


def _error(case: Case, code: str, error: DataError) -> Finding:
    return finding(code, error.problem, remedy=error.remedy).replace(case=case.case)


def foreground(classes: Array) -> dict[str, Any]:
    """What the label (X, Y, Z) holds: its values, its share of foreground, its pieces."""
    import cc3d

    values = spread(classes, sparse=True)
    present = np.unique(values.values) if values.counts is None else values.values
    mask = classes != 0
    _, components = cc3d.connected_components(
        mask, connectivity=26, return_N=True, binary_image=True
    )
    return {
        "label_values": tuple(int(value) for value in present),
        "foreground_ratio": float(np.count_nonzero(mask) / mask.size),
        "components": int(components),
    }
