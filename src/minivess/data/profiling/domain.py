"""Compare a volume to segment with the volumes that a network was trained on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from minivess import units
from minivess.contracts import DatasetProfile, Domain, Finding, Spacing
from minivess.data.checks import finding
from minivess.formats.decode import Volume
from minivess.text import format_shape

PERCENTILES = ("0.5", "50", "99.5")
SPACING_MARGIN, SIZE_MARGIN = 1.25, 2.0
"""A factor below the smallest and above the largest trained on."""
CONTRAST_MARGIN, OFFSET_MARGIN = 4.0, 0.5
"""A factor of the span of values, and a shift as a share of the span trained on."""
SAMPLE = 1 << 20


def domain_of(profile: DatasetProfile) -> Domain:
    """Return the domain of the volumes of a profile; `unit` is micron where all have a length."""
    volumes = profile.volumes
    scales = [units.in_micron(volume.unit) for volume in volumes]
    known = all(scales)
    steps = np.array([v.voxel_spacing for v in volumes]) * (
        np.array(scales, dtype=float)[:, None] if known else 1.0
    )
    low, high = (tuple(map(float, ends)) for ends in (steps.min(axis=0), steps.max(axis=0)))
    seen = {name: [v.percentiles[name] for v in volumes] for name in PERCENTILES}
    return Domain(
        spacing=(cast(Spacing, low), cast(Spacing, high)),
        unit="micron" if known else units.UNKNOWN,
        min_shape=profile.min_shape,
        max_shape=profile.max_shape,
        intensities={name: (min(values), max(values)) for name, values in seen.items()},
    )


def check_domain(image: Volume, domain: Domain) -> list[Finding]:
    """Find what lies outside of a domain: voxel size, size, slices, intensities."""
    problems = (*_spacing(image, domain), *_size(image, domain), *_intensities(image, domain))
    return [finding("out_of_range", problem) for problem in problems]


def sampled(image: Volume) -> npt.NDArray[Any]:
    """Return about SAMPLE voxels of a volume, evenly taken."""
    sample: npt.NDArray[Any] = image.array.ravel(order="K")[:: max(1, image.array.size // SAMPLE)]
    return sample


def _spacing(image: Volume, domain: Domain) -> Iterator[str]:
    scale, (low, high) = units.in_micron(image.unit), domain.spacing
    if not image.spacing_known or (scale is None) != (domain.unit == units.UNKNOWN):
        return
    steps = np.array(image.spacing) * (scale or 1.0)
    if (steps * SPACING_MARGIN < low).any() or (steps > np.multiply(high, SPACING_MARGIN)).any():
        trained = f"{units.spacing_text(low, '')} to {units.spacing_text(high, domain.unit)}"
        seen = units.spacing_text(steps, domain.unit)
        yield f"Its voxel size, {seen}, is not among those trained on, {trained}."


def _size(image: Volume, domain: Domain) -> Iterator[str]:
    shape, low, high = np.array(image.shape), domain.min_shape, domain.max_shape
    if shape[2] < low[2]:
        yield f"It has {shape[2]} slices; the thinnest volume trained on has {low[2]}."
    if (shape[:2] * SIZE_MARGIN < low[:2]).any() or (shape > np.multiply(high, SIZE_MARGIN)).any():
        trained = f"{format_shape(low)} to {format_shape(high)}"
        yield f"Its size, {format_shape(image.shape)}, is far from those trained on, {trained}."


def _intensities(image: Volume, domain: Domain) -> Iterator[str]:
    low, middle, high = np.percentile(sampled(image), [float(name) for name in PERCENTILES])
    (least, _), (dark, bright), (_, most) = (domain.intensities[name] for name in PERCENTILES)
    room, span = OFFSET_MARGIN * (most - least), most - least
    shifted = not dark - room <= middle <= bright + room
    if shifted or not span / CONTRAST_MARGIN <= high - low <= span * CONTRAST_MARGIN:
        yield (
            f"Its intensities, mostly {low:.4g} to {high:.4g} with a median of {middle:.4g}, are "
            f"unlike those trained on, {least:.4g} to {most:.4g} with medians of {dark:.4g} to "
            f"{bright:.4g}."
        )
