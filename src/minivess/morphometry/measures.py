"""Measures of the vessels of a mask, by class."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from minivess.contracts import IGNORED, Spacing
from minivess.evaluation import centrelines
from minivess.morphometry.network import VesselNetwork

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
MEASURES = (
    "length", "length_density", "volume", "volume_density", "diameter_mean", "diameter_sd",
    *(f"diameter_q{100 * share:02.0f}" for share in QUANTILES),
    "branch_points", "segments", "tortuosity", "parts", "loops",
)  # fmt: skip
"""Lengths and diameters are in the unit of the spacing, a volume in its cube, `length_density` in
its inverse square; `volume_density` is a share of the annotated volume."""
Row = dict[str, float | None]


def measure(label: npt.NDArray[Any], spacing: Spacing) -> dict[int, Row]:
    """Return the measures of each class by its value."""
    tissue, found = networks(label, spacing)
    return {value: row(network, tissue) for value, network in found.items()}


def networks(label: npt.NDArray[Any], spacing: Spacing) -> tuple[float, dict[int, VesselNetwork]]:
    """Return the annotated volume, and the vessels of each class; IGNORED is no tissue.

    A label without any vessel has an empty class 1: that there is none is a finding.
    """
    classes = [int(value) for value in np.unique(label) if value not in (0, IGNORED)] or [1]
    tissue = float(np.count_nonzero(label != IGNORED) * np.prod(spacing))
    return tissue, {value: VesselNetwork(label == value, spacing) for value in classes}


def row(network: VesselNetwork, tissue: float) -> Row:
    """Return the measures of one class in a volume of `tissue` cubed units.

    A diameter or tortuosity of no vessel is None.
    """
    region, diameters = network.region, network.diameters
    length = float(network.tree.size("weight"))
    volume = float(region.size * np.prod(network.spacing))
    edges = [found for *_, found in network.segments.edges(data=True) if "tortuosity" in found]
    shapes, lengths = ([found[name] for found in edges] for name in ("tortuosity", "length"))
    quantiles = np.quantile(diameters, QUANTILES) if len(diameters) else [None] * len(QUANTILES)
    parts, loops = region.betti
    values: tuple[float | None, ...] = (
        length,
        length / tissue if tissue else None,
        volume,
        volume / tissue if tissue else None,
        float(diameters.mean()) if len(diameters) else None,
        float(diameters.std()) if len(diameters) else None,
        *(None if found is None else float(found) for found in quantiles),
        centrelines.junctions(region),
        network.segments.number_of_edges(),
        float(np.average(shapes, weights=lengths)) if shapes else None,
        parts,
        loops,
    )
    return dict(zip(MEASURES, values, strict=True))
