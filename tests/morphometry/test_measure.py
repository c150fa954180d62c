"""Vessels in numbers: true on tubes that are known, refused without a voxel size, written whole."""

from __future__ import annotations

import csv
import json

import networkx as nx
import numpy as np
import pytest
from scipy.spatial import cKDTree

import minivess as mv
from minivess.cli.main import main
from minivess.demo import vessels
from minivess.errors import DataError, UsageError
from minivess.morphometry import mask_files, measures
from tests.conftest import write_nifti

SPACING = (0.5, 0.5, 1.0)


def cross(loop=False):
    """A tube along x with a branch along y; with `loop`, a frame of four tubes instead."""
    mask = np.zeros((60, 50, 11), dtype=np.uint8)
    if loop:
        mask[10:45, 10:40, 3:8] = 1
        mask[15:40, 15:35] = 0
        return mask
    mask[:, 18:23, 4:7] = 1
    mask[28:33, 20:50, 4:7] = 1
    return mask


def test_a_tube_with_a_branch_has_its_length_calibre_and_one_branch_point():
    found = measures.measure(cross(), SPACING)[1]
    lost = 0.5 * (60 + 30) - found["length"]
    assert 0 <= lost <= 3 * 1.5  # thinning shortens each of three ends by a radius at most
    assert found["length_density"] == found["length"] / (60 * 50 * 11 * 0.25)
    assert found["volume_density"] == np.mean(cross())
    assert found["diameter_mean"] == pytest.approx(3, abs=0.5)
    assert (found["branch_points"], found["segments"]) == (1, 3)
    assert (found["parts"], found["loops"]) == (1, 0)
    assert found["tortuosity"] == pytest.approx(1, abs=0.05)


def test_a_ring_is_one_loop_and_a_mask_without_vessels_has_no_calibre():
    assert measures.measure(cross(loop=True), SPACING)[1]["loops"] == 1
    empty = measures.measure(np.zeros((9, 9, 9), np.uint8), SPACING)[1]
    assert (empty["length"], empty["parts"], empty["loops"], empty["segments"]) == (0, 0, 0, 0)
    assert empty["diameter_mean"] is empty["tortuosity"] is empty["diameter_q50"] is None


def test_what_was_not_annotated_is_no_tissue_and_each_class_is_measured():
    mask = cross()
    mask[:, :10], mask[:, 40:] = 255, 2
    found = measures.measure(mask, SPACING)
    assert sorted(found) == [1, 2]
    assert found[2]["volume_density"] == pytest.approx(0.25)


def grown(index, monkeypatch):
    """A demo volume's label and spacing, with place, radius and branch of each point drawn."""
    points: list = []
    kept: list = []
    branch: dict[int, int] = {}
    parent: dict[int, int] = {}
    stamp, grow = vessels._stamp, vessels._next

    def stamped(mask, signal, tip, look):
        kept.append(tip)
        points.append((tip, branch.setdefault(id(tip), len(kept))))
        stamp(mask, signal, tip, look)

    def following(rng, tip, thinnest):
        after = grow(rng, tip, thinnest)
        kept.extend(after)
        goes_on = len(after) == 1 and after[0].radius == tip.radius * 0.998
        for number, one in enumerate(after):
            own = branch[id(tip)] if goes_on else 10**6 + len(kept) + number
            branch[id(one)] = own
            if not goes_on:
                parent[own] = branch[id(tip)]
        return after

    with monkeypatch.context() as patched:
        patched.setattr(vessels, "_stamp", stamped)
        patched.setattr(vessels, "_next", following)
        _, label, spacing = vessels.make_vessels(index, 0)
    return label, spacing, points, parent


def truth(label, spacing, points, parent):
    """Length and mean diameter of the tubes in the box; a stretch that two share counts once."""
    places, box = np.array([tip.point for tip, _ in points]), np.multiply(label.shape, spacing)
    radii = np.array([tip.radius for tip, _ in points])
    counted = ((places >= 0) & (places <= box)).all(axis=1)
    tree = cKDTree(places)
    for here in np.flatnonzero(counted):
        own = points[here][1]
        counted[here] = not any(
            other < here and counted[other] and points[other][1] not in (own, parent.get(own))
            and np.linalg.norm(places[other] - places[here]) < radii[other]
            for other in tree.query_ball_point(places[here], radii.max())
        )  # fmt: skip
    return counted.sum() * vessels.STEP_UM, 2 * radii[counted].mean()


def test_on_demo_volumes_length_density_is_within_5_percent_and_diameter_within_a_voxel(
    monkeypatch,
):
    measured, true, tissue = 0.0, 0.0, 0.0
    for index in range(12):
        label, spacing, points, parent = grown(index, monkeypatch)
        length, diameter = truth(label, spacing, points, parent)
        found = measures.measure(label, spacing)[1]
        assert abs(found["diameter_mean"] - diameter) < min(spacing)
        assert found["length"] == pytest.approx(length, rel=0.1)
        measured, true = measured + found["length"], true + length
        tissue += label.size * np.prod(spacing)
    assert measured / tissue == pytest.approx(true / tissue, rel=0.05)


def test_masks_become_a_table_and_graphs_in_the_coordinates_of_the_image(tmp_path, capsys):
    write_nifti(tmp_path / "masks" / "a.nii.gz", cross(), SPACING)
    write_nifti(tmp_path / "masks" / "deep" / "b.nii.gz", cross(loop=True), SPACING)
    out = tmp_path / "numbers"
    assert main(["measure", str(tmp_path / "masks"), str(out), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    with (out / "measures.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["file"] for row in rows] == ["a.nii.gz", "deep/b.nii.gz"]
    assert [float(row["length"]) for row in rows] == [one["length"] for one in printed["measures"]]
    graph = nx.read_graphml(out / "a_class1.graphml")
    kinds = [node["kind"] for _, node in graph.nodes(data=True)]
    assert (sorted(kinds), graph.number_of_edges()) == (["branch point"] + ["end"] * 3, 3)
    (centre,) = (node for _, node in graph.nodes(data=True) if node["kind"] == "branch point")
    assert (centre["x"], centre["y"], centre["z"]) == pytest.approx((15, 10, 5), abs=1)
    lines = (out / "a_class1.swc").read_text().splitlines()[1:]
    numbers, parents = ({int(line.split()[place]) for line in lines} for place in (0, 6))
    assert parents - numbers == {-1}
    assert (out / "deep" / "b_class1.swc").exists()


def test_a_mask_without_a_voxel_size_is_refused_unless_it_is_stated(tmp_path):
    import tifffile

    path = tmp_path / "mask.tif"
    tifffile.imwrite(path, cross().T)
    with pytest.raises(DataError, match="states no voxel size") as refused:
        mask_files.measure(path)
    assert "data.spacing" in refused.value.remedy
    (row,) = mv.measure(path, spacing=SPACING, unit="micron").to_dict("records")
    (same,) = mv.measure(cross(), spacing=SPACING).to_dict("records")
    assert (row["length"], row["unit"]) == (same["length"], "micron")


def test_nothing_of_another_origin_is_replaced(tmp_path):
    write_nifti(tmp_path / "a.nii.gz", cross(), SPACING)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "measures.csv").write_text("mine\n")
    with pytest.raises(UsageError, match="did not write it"):
        mask_files.measure(tmp_path / "a.nii.gz", tmp_path / "out")
    with pytest.raises(DataError, match="no mask to measure"):
        mask_files.measure(tmp_path / "nowhere")
