"""One volume in numbers, at native resolution, from one reading of its files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from minivess import files, keys
from minivess.config import DataConfig
from minivess.contracts import Case, Finding, VolumeStats
from minivess.data import quality
from minivess.data.checks import finding
from minivess.data.filenames import curated_names
from minivess.data.intensities import present, spread
from minivess.data.resemblance import signature
from minivess.data.volume import Array, read, relabel, whole
from minivess.errors import DataError


class Measurement(NamedTuple):
    """One volume in numbers, what was found, and its signature.

    No numbers where nobody's decision could make it usable.
    """

    stats: VolumeStats | None
    findings: list[Finding]
    signature: str = ""


def measure(case: Case, *, config: DataConfig, hashes: Sequence[str] | None = None) -> Measurement:
    """Measure one volume at native resolution.

    `hashes` are the md5 of image and label, where they are known already.
    """
    path = cast(Path, case.label)
    try:
        # The label comes first: what counting its pieces takes is free again before the image.
        label = read(path)
        classes = relabel(whole(label.array, path), config.label_map)
        pieces = foreground(classes)
        image = read(case.image)
    except DataError as error:
        return Measurement(None, [_error(case, error)])
    values = spread(image.array)
    findings = quality.check(case.case, image, label, classes, values)
    if any(finding.code in quality.BEYOND_ACCEPTING for finding in findings):
        return Measurement(None, findings)
    stats = VolumeStats(
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
        **pieces,
    )
    return Measurement(stats, findings, signature(image.array))


def _error(case: Case, error: DataError) -> Finding:
    return finding(error.code, error.problem, remedy=error.remedy).replace(case=case.case)


def foreground(classes: Array) -> dict[str, Any]:
    """What the label (X, Y, Z) holds: its values, its share of foreground, its pieces."""
    import cc3d

    # What has no negative values may be counted as it is.
    mask = classes if classes.min() >= 0 else classes != 0
    _, components = cc3d.connected_components(
        mask, connectivity=26, return_N=True, binary_image=True
    )
    return {
        "label_values": present(classes),
        "foreground_ratio": float(np.count_nonzero(mask) / mask.size),
        "components": int(components),
    }
