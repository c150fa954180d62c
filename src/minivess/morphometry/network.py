"""The centreline of one class as a graph of segments between branch points and ends."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import networkx as nx
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from minivess.contracts import Spacing
from minivess.evaluation import centrelines
from minivess.evaluation.regions import Mask, Region

Floats = NDArray[np.float64]


class VesselNetwork:
    """The vessels of one class (X, Y, Z); lengths and diameters are in the unit of `spacing`."""

    def __init__(self, mask: Mask, spacing: Spacing) -> None:
        self.region, self.spacing = Region(mask), spacing

    @cached_property
    def graph(self) -> nx.Graph:
        """Voxels of the centreline, by their row in `region.skeleton`, joined to neighbours."""
        return centrelines.graph_of(self.region.skeleton, self.spacing)

    @cached_property
    def tree(self) -> nx.Graph:
        """The shortest tree through the centreline, a part at a time: a loop lacks one step."""
        return nx.minimum_spanning_tree(self.graph)

    @cached_property
    def diameters(self) -> Floats:
        """Twice the distance from each centreline voxel to the nearest voxel outside.

        What lies beyond the volume counts as more of the same, so that a vessel is not thinner
        where the field of view cuts it.
        """
        if not self.region.size:
            return np.empty(0)
        padded = np.pad(self.region.mask, 1, mode="edge")
        distances = ndimage.distance_transform_edt(padded, sampling=self.spacing)
        found: Floats = 2 * distances[tuple((self.region.skeleton + 1).T)]
        return found

    @cached_property
    def segments(self) -> nx.MultiGraph:
        """Branch points and ends as nodes, the vessels between them as edges.

        Nodes have kind, place (x, y, z in voxels) and diameter; edges have length, diameter and
        tortuosity (length over the distance between its ends, absent for a ring).
        """
        found = nx.MultiGraph()
        places: dict[int, int] = {}
        branching = [point for point, degree in self.graph.degree if degree > 2]
        for cluster in nx.connected_components(self.graph.subgraph(branching)):
            self._add_node(found, "branch point", sorted(cluster))
            places |= dict.fromkeys(cluster, len(found) - 1)
        rest = self.graph.subgraph(self.graph.nodes - set(branching))
        for piece in nx.connected_components(rest):
            self._add_segment(found, rest.subgraph(piece), places)
        return found

    def _add_node(self, found: nx.MultiGraph, kind: str, points: list[int]) -> int:
        place = self.region.skeleton[points].mean(axis=0)
        diameter = float(self.diameters[points].mean())
        found.add_node(len(found), kind=kind, place=tuple(place.tolist()), diameter=diameter)
        return len(found) - 1

    def _add_segment(self, found: nx.MultiGraph, piece: nx.Graph, places: dict[int, int]) -> None:
        """Add a piece without branch points: a path, a ring or a single voxel."""
        loose = [point for point, degree in piece.degree if degree < 2] or [min(piece)]
        points = list(nx.dfs_preorder_nodes(piece, loose[0]))
        joints = {end: self._joints(end, places) for end in (points[0], points[-1])}
        first = joints[points[0]][:1]
        last = [one for one in joints[points[-1]] if one not in first or len(points) > 1][-1:]
        path = [*first, *points, *last]
        ring = len(loose) == 1 and len(points) > 2
        steps = np.diff(self.region.skeleton[path] * self.spacing, axis=0)
        length = float(np.linalg.norm(steps, axis=1).sum())
        if ring:
            length += float(self.graph[points[-1]][points[0]]["weight"])
        chord = float(np.linalg.norm(steps.sum(axis=0)))
        ends = [
            places[point] if point in places else self._add_node(found, "end", [point])
            for point in ((path[0], path[-1]) if len(path) > 1 and not ring else (path[0],))
        ]
        shape = {"tortuosity": length / chord} if chord and not ring else {}
        diameter = float(self.diameters[points].mean())
        found.add_edge(ends[0], ends[-1], length=length, diameter=diameter, **shape)

    def _joints(self, end: int, places: dict[int, int]) -> list[int]:
        """Voxels of branch points beside an end of a piece, one of each, nearest first."""
        near = sorted(
            (step["weight"], other) for other, step in self.graph[end].items() if other in places
        )
        return list({places[other]: other for _, other in reversed(near)}.values())

    def swc(self, affine: Floats) -> Iterator[str]:
        """Yield the rows of an SWC file: number, kind, x, y, z, radius, parent; a loop is cut."""
        numbers: dict[int, int] = {}
        scale = affine[:3, :3]
        for part in nx.connected_components(self.tree):
            degrees = dict(self.tree.degree(part))
            root = min(part, key=lambda point: (degrees[point], point))
            before = {root: -1} | {after: point for point, after in nx.dfs_edges(self.tree, root)}
            for point in before:
                numbers[point] = len(numbers) + 1
                x, y, z = scale @ self.region.skeleton[point] + affine[:3, 3]
                parent = numbers.get(before[point], -1)
                radius = self.diameters[point] / 2
                yield f"{numbers[point]} 0 {x:.6g} {y:.6g} {z:.6g} {radius:.6g} {parent}"
