"""Breaks and merges as objects: pieces of centreline that one mask has and the other lacks.

Lengths have a limit below which a piece is about as long as it is thick, and counts for nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import networkx as nx
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from minivess import names
from minivess.config import EvaluationConfig
from minivess.contracts import FaultKind, Spacing
from minivess.evaluation.regions import VOXELS, Region

NEIGHBOUR = 1.8
"""Above the distance to a neighbour across a corner, in voxels."""
MISSED: tuple[FaultKind, ...] = ("missed vessel", "missed branch", "false break")
EXTRA: tuple[FaultKind, ...] = ("false vessel", "false branch", "false merge")
"""By the number of ends at which a piece joins what both masks have: none, one, several."""


class Piece(NamedTuple):
    """A piece of centreline; `voxel` is the one in its middle, lengths are in units of spacing."""

    kind: FaultKind
    voxel: tuple[int, int, int]
    length: float
    lumen: float


def compare(guess: Region, real: Region, spacing: Spacing, tolerance: float) -> Iterator[Piece]:
    """Yield the pieces of either centreline farther than `tolerance` voxels from the other mask."""
    yield from _only_in(real, guess, spacing, tolerance, MISSED)
    yield from _only_in(guess, real, spacing, tolerance, EXTRA)


def _only_in(
    mine: Region, other: Region, spacing: Spacing, tolerance: float, kinds: tuple[FaultKind, ...]
) -> Iterator[Piece]:
    points = mine.skeleton
    if not len(points):
        return
    graph = graph_of(points, spacing)
    apart = ~other.mask[tuple(points.T)]
    if other.size:
        apart &= other.distances(points, VOXELS) > tolerance
    for piece in nx.connected_components(graph.subgraph(np.flatnonzero(apart).tolist())):
        joints = set().union(*(graph[point] for point in piece)) - piece
        ends = nx.number_connected_components(graph.subgraph(joints))
        own = points[sorted(piece)]
        middle = own[((own - own.mean(axis=0)) ** 2).sum(axis=1).argmin()]
        tree = nx.minimum_spanning_tree(graph.subgraph(piece | joints))
        yield Piece(
            kinds[min(ends, 2)],
            (int(middle[0]), int(middle[1]), int(middle[2])),
            # A single voxel has no edge.
            float(tree.size("weight")) or min(spacing),
            # The surface runs through the middle of the outermost voxels.
            float(2 * mine.distances(own, spacing).mean() + min(spacing)),
        )


def errors(
    guess: Region, real: Region, spacing: Spacing, config: EvaluationConfig
) -> dict[str, float | None]:
    """Errors of topology by their number, `names.COUNTS`.

    Breaks and merges are undefined where a mask is empty: what was not found cannot break.
    """
    numbers = ((*one.betti, junctions(one)) for one in (guess, real))
    found: dict[str, float | None] = {
        name: float(abs(mine - theirs))
        for name, mine, theirs in zip(names.BETTI, *numbers, strict=True)
    }
    if bool(guess.size) != bool(real.size):
        return found | {"false_breaks": None, "false_merges": None}
    pieces = compare(guess, real, spacing, config.nsd_tolerance)
    kinds = Counter(one.kind for one in pieces if not is_short(one, spacing, config))
    found["false_breaks"] = float(kinds["false break"])
    return found | {"false_merges": float(kinds["false merge"])}


def is_short(piece: Piece, spacing: Spacing, config: EvaluationConfig) -> bool:
    """Whether a piece is below `evaluation.fault_length`, in edges of the finest voxel axis."""
    return piece.length < config.fault_length * min(spacing)


def junctions(region: Region) -> int:
    """Number of places where the centreline branches; neighbouring voxels are one place."""
    graph = graph_of(region.skeleton, VOXELS)
    branching = [point for point, degree in graph.degree if degree > 2]
    return int(nx.number_connected_components(graph.subgraph(branching)))


def graph_of(points: NDArray[np.int32], spacing: Spacing) -> nx.Graph:
    """Return the graph of neighbouring voxels (N, 3); weights are distances."""
    pairs = cKDTree(points).query_pairs(NEIGHBOUR, output_type="ndarray")
    steps = (points[pairs[:, 0]] - points[pairs[:, 1]]) * np.asarray(spacing)
    graph = nx.Graph()
    graph.add_nodes_from(range(len(points)))
    lengths = np.linalg.norm(steps, axis=1).tolist()
    graph.add_weighted_edges_from(
        (int(a), int(b), length) for (a, b), length in zip(pairs, lengths, strict=True)
    )
    return graph
