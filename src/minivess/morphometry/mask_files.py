"""Mask files measured: one table of them all, and the graph of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import networkx as nx
import numpy.typing as npt

from minivess import files, units
from minivess.config import DataConfig
from minivess.data.pairing.cases import walk_files
from minivess.data.profiling.grids import with_stated_spacing
from minivess.errors import DataError, UsageError
from minivess.formats import volume
from minivess.formats.filenames import is_volume, stem
from minivess.morphometry import measures
from minivess.morphometry.network import VesselNetwork

TABLE = "measures.csv"
COLUMNS = ("file", "class", "unit", "spacing_x", "spacing_y", "spacing_z", *measures.MEASURES)


def measure(
    source: Path, target: Path | None = None, data: DataConfig | None = None
) -> list[dict[str, Any]]:
    """Measure a mask or all masks below a folder; return a row for each mask and class.

    Args:
        source: a mask of any format that is read, label values as classes, or a folder of some.
        target: folder for measures.csv and, for each mask and class, NAME_class1.graphml and .swc.
        data: `spacing` and `unit` where the files state none, `label_map` for their values.

    Raises:
        DataError: no mask there, one that cannot be read, or no voxel size.
        UsageError: a file of another origin would be replaced.
    """
    root = source if source.is_dir() else source.parent
    return measure_each(find(source), root, target, data)


def measure_each(
    masks: Sequence[Path], root: Path, target: Path | None = None, data: DataConfig | None = None
) -> list[dict[str, Any]]:
    """Measure masks below `root`, as `measure` does; the folders below it are mirrored."""
    found: list[dict[str, Any]] = []
    if target is not None:
        refuse_occupied(target)
    for path in masks:
        name = path.relative_to(root)
        for row, network, affine in _measured(path, data or DataConfig()):
            found.append({"file": name.as_posix(), **row})
            if target is not None:
                place = target / name.parent / f"{stem(path)}_class{row['class']}"
                write_graphs(place, network, affine, row["unit"])
    if target is not None:
        files.write_csv(target / TABLE, found, COLUMNS)
    return found


def find(source: Path) -> list[Path]:
    """Return the volume files at or below a path.

    Raises:
        DataError: there is none.
    """
    below = sorted(walk_files(source)) if source.is_dir() else [source]
    masks = [path for path in below if path.is_file() and is_volume(path)]
    if not masks:
        raise DataError(
            f"There is no mask to measure at {source}.",
            remedy="name a mask (.nii.gz, .tif, .nrrd, .mha), or a folder of masks alone",
        )
    return masks


def _measured(
    path: Path, data: DataConfig
) -> Iterator[tuple[dict[str, Any], VesselNetwork, npt.NDArray[Any]]]:
    """Yield the row of each class of a mask with its network."""
    mask = with_stated_spacing(volume.read_volume(path), data)
    if not mask.spacing_known:
        raise DataError(
            f"The mask {path} states no voxel size, and lengths need one.",
            remedy="data.spacing=[0.5,0.5,2] data.unit=micron, with the true size",
            code="unknown_spacing",
        )
    label = volume.read_label(path, data.label_map)
    tissue, networks = measures.networks(label, mask.spacing)
    for value, network in networks.items():
        stated = (value, mask.unit, *mask.spacing)
        about = dict(zip(COLUMNS[1:6], stated, strict=True))
        yield about | measures.row(network, tissue), network, mask.affine


def write_graphs(place: Path, network: VesselNetwork, affine: npt.NDArray[Any], unit: str) -> None:
    """Write PLACE.graphml, the segments, and PLACE.swc, the voxels of the centreline.

    Places are those of the image's affine, as Slicer shows them; lengths are in `unit`.
    """
    graph = network.segments.copy()
    graph.graph["unit"] = unit
    for _, node in graph.nodes(data=True):
        x, y, z = (affine @ [*node.pop("place"), 1])[:3].tolist()
        node |= {"x": x, "y": y, "z": z}
    files.write(
        place.with_name(f"{place.name}.graphml"), lambda path: nx.write_graphml(graph, path)
    )
    head = f"# centreline by minivess, unit {unit}: number, kind, x, y, z, radius, parent"
    text = "\n".join([head, *network.swc(affine)])
    files.write_text(place.with_name(f"{place.name}.swc"), f"{text}\n")


def refuse_occupied(target: Path) -> None:
    """Refuse a folder whose table was written by something else."""
    table, mark = target / TABLE, ",".join(COLUMNS).encode()
    if target.exists() and not target.is_dir():
        raise UsageError(f"{target} is a file.", remedy="name a folder for table and graphs")
    if table.exists() and not table.read_bytes().startswith(mark):
        raise UsageError(
            f"{table} is there already, and `minivess measure` did not write it.",
            remedy="move it away, or name another folder",
        )


def summary(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield a line for each mask and class, as it stands on a screen."""
    for row in rows:
        unit = "(unit not stated)" if row["unit"] == units.UNKNOWN else row["unit"]
        diameter = row["diameter_mean"]
        calibre = "no vessel" if diameter is None else f"mean diameter {diameter:.3g} {unit}"
        yield (
            f"  {row['file']}, class {row['class']}: length {row['length']:.4g} {unit}, "
            f"{_density(row)}, volume share {_share(row['volume_density'])}, {calibre}, branch "
            f"points {row['branch_points']}, parts {row['parts']}, loops {row['loops']}"
        )


def _density(row: dict[str, Any]) -> str:
    """The length density in mm of vessel in a mm3, where the unit is known."""
    size, value = units.in_micron(row["unit"]), row["length_density"]
    if value is None:
        return "nothing annotated"
    return f"{value * 1e6 / size**2:.4g} mm/mm3" if size else f"{value:.3g} per squared unit"


def _share(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.2%}"
