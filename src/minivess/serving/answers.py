"""What a service says about a mask: figures, a table of components, pictures for the page."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cc3d
import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.spatial import cKDTree

from minivess import files
from minivess.contracts import Finding, Risk, Spacing
from minivess.evaluation.regions import Region
from minivess.formats import nifti
from minivess.formats.decode import Volume
from minivess.formats.filenames import stem

Mask = npt.NDArray[np.uint8]
MOST_COMPONENTS = 10_000
CENTRE = ("centre_x", "centre_y", "centre_z")
COLUMNS = ("class", "voxels", "volume", "length", "unit", *CENTRE)
PICTURE_VOXELS, SHOWN = 2**25, (0.5, 99.5)
"""Voxels of a volume for the page at most, and the percentiles that are black and white there."""


def figures(mask: Mask, image: Volume, classes: Sequence[int]) -> dict[str, Any]:
    """Return grid, voxels and volume of each class; volumes are in the cubed unit."""
    voxel = float(np.prod(image.spacing))
    counts = {str(value): int(np.count_nonzero(mask == value)) for value in classes}
    return {
        "shape": image.shape,
        "spacing": image.spacing,
        "unit": image.unit,
        "voxels": counts,
        "volume": {value: count * voxel for value, count in counts.items()},
    }


def thresholds(risks: Sequence[Risk], odd: Sequence[Finding]) -> list[dict[str, Any]]:
    """Return the thresholds with what they promise; `holds`: the volume is like those of training.

    Conformal risk control promises nothing about a volume from elsewhere.
    """
    fields = {"loss", "threshold", "alpha", "bound", "n", "unit", "smallest_alpha"}
    holds = all(found.code != "out_of_range" for found in odd)
    return [
        risk.model_dump(include=fields)
        | {"guarantee": risk.guarantee, "holds": holds and risk.threshold is not None}
        for risk in risks
    ]


def sets(
    shares: npt.NDArray[np.float32], image: Volume, risks: Sequence[Risk], path: Path
) -> dict[str, dict[str, Any]]:
    """Return by loss the mask whose foreground is at or above its threshold, packed, and figures.

    Args:
        shares: of the classes (C, X, Y, Z), background first.
        path: of a temporary file.
    """
    foreground = 1 - shares[0]
    found: dict[str, dict[str, Any]] = {}
    for risk in risks:
        if risk.threshold is not None:
            mask = (foreground >= risk.threshold).astype(np.uint8)
            nifti.write(path, mask, image)
            found[risk.loss] = {**figures(mask, image, (0, 1)), "mask_nii_gz": packed(path)}
    return found


def components(mask: Mask, spacing: Spacing) -> dict[str, Any]:
    """Return the largest connected components, and how many were left out."""
    rows = component_rows(mask, spacing)
    left_out = max(0, len(rows) - MOST_COMPONENTS)
    return {"components": rows[:MOST_COMPONENTS], "components_left_out": left_out}


def component_rows(mask: Mask, spacing: Spacing) -> list[dict[str, Any]]:
    """Return the connected components of each class, the largest first.

    `volume` is in the cubed unit of the spacing, `length` that of the centre lines in the unit:
    the shortest tree through their voxels, so that a loop lacks one step.
    """
    labels = cc3d.connected_components(np.array(mask), connectivity=26)
    found = cc3d.statistics(labels)
    values = np.zeros(len(found["voxel_counts"]), np.uint8)
    values[labels.ravel()] = mask.ravel()
    lengths = sum(_lengths(mask == value, labels, spacing) for value in np.unique(values[1:]))
    order = 1 + np.argsort(-found["voxel_counts"][1:].astype(np.int64), kind="stable")
    return [
        {
            "class": int(values[place]),
            "voxels": int(found["voxel_counts"][place]),
            "volume": float(found["voxel_counts"][place] * np.prod(spacing)),
            "length": float(np.asarray(lengths)[place]),
            "centre": [float(step) for step in found["centroids"][place]],
        }
        for place in order
    ]


def _lengths(
    mask: npt.NDArray[np.bool_], labels: npt.NDArray[Any], spacing: Spacing
) -> npt.NDArray[np.float64]:
    """Length of the centre lines of each component, by its label."""
    points = Region(mask).skeleton
    owner = labels[tuple(points.T)].astype(np.int64)
    tree = cKDTree(points * np.array(spacing))
    reach = float(np.linalg.norm(spacing)) * 1.001
    pairs = tree.query_pairs(reach, output_type="ndarray")
    pairs = pairs[owner[pairs[:, 0]] == owner[pairs[:, 1]]]
    steps = np.linalg.norm(tree.data[pairs[:, 0]] - tree.data[pairs[:, 1]], axis=1)
    graph = coo_array((steps, (pairs[:, 0], pairs[:, 1])), shape=(len(points),) * 2)
    edges = minimum_spanning_tree(graph.tocsr()).tocoo()
    n = int(labels.max()) + 1
    return np.bincount(owner[edges.row], edges.data, minlength=n).astype(np.float64)


def write_beside(target: Path, mask: Mask, image: Volume) -> None:
    """Write the table of components (`beside(target)`) and a preview beside the file of a mask."""
    from PIL.PngImagePlugin import PngInfo

    from minivess.review.pages import views

    (table, preview), about = beside(target), PngInfo()
    about.add_text("Software", "minivess")
    rows = component_rows(mask, image.spacing)
    for row in rows:
        row |= {"unit": image.unit} | dict(zip(CENTRE, row.pop("centre"), strict=True))
    files.write_csv(table, rows, COLUMNS)
    picture = views.preview(image, mask)
    files.write(preview, lambda temporary: picture.save(temporary, pnginfo=about))


def beside(target: Path) -> tuple[Path, Path]:
    """Return where table and preview of a mask file lie: name.csv, name.png."""
    name = stem(target)
    return target.with_name(f"{name}.csv"), target.with_name(f"{name}.png")


def is_own(path: Path) -> bool:
    """Whether a table or a preview was written here."""
    mark = {".csv": ",".join(COLUMNS).encode(), ".png": b"Software\0minivess"}.get(path.suffix)
    return mark is not None and path.is_file() and mark in path.read_bytes()[:200]


def picture(image: Volume, folder: Path) -> str:
    """Return the image as grey values of 8 bits for the page: NIfTI, packed, in base64.

    Of a large volume every n-th voxel along x and y is taken.
    """
    array, step = image.array, 1
    while array[::step, ::step].size > PICTURE_VOXELS:
        step += 1
    array = array[::step, ::step].astype(np.float32)
    low, high = np.percentile(array, SHOWN)
    grey = (np.clip((array - low) / max(high - low, 1e-12), 0, 1) * 255).astype(np.uint8)
    return packed(nifti.write(folder / "picture.nii.gz", grey, replace(image, array=grey)))


def probabilities(shares: npt.NDArray[np.float32]) -> Mask:
    """Return shares of the classes (C, X, Y, Z) without background, 255 for 1.

    Shape (X, Y, Z) for one class, else (X, Y, Z, C - 1).
    """
    scaled = np.moveaxis(np.rint(shares[1:] * 255).astype(np.uint8), 0, -1)
    return scaled[..., 0] if scaled.shape[-1] == 1 else scaled


def packed(path: Path) -> str:
    """Return a file in base64."""
    return base64.b64encode(path.read_bytes()).decode()
