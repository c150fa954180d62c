"""Breaks and merges are found where they are, with their length and lumen."""

from __future__ import annotations

import numpy as np
import pytest

from minivess import names
from minivess.config import EvaluationConfig
from minivess.evaluation import centrelines
from minivess.evaluation.regions import Region

SPACING = (0.5, 0.5, 1.0)
SHAPE = (48, 40, 9)


def rods(*ends, thick=2):
    """Straight vessels between points (x, y) in the middle plane, 2 * thick + 1 voxels wide."""
    mask = np.zeros(SHAPE, dtype=bool)
    for (x0, y0), (x1, y1) in ends:
        for t in np.linspace(0, 1, 100):
            x, y = round(x0 + t * (x1 - x0)), round(y0 + t * (y1 - y0))
            mask[x - thick : x + thick + 1, y - thick : y + thick + 1, 3:6] = True
    return mask


TRUNK = ((4, 12), (43, 12))


def found(guess, real, tolerance=1.0):
    return list(centrelines.compare(Region(guess), Region(real), SPACING, tolerance))


def test_equal_masks_have_no_faults_and_a_shift_within_tolerance_has_none():
    mask = rods(TRUNK, ((20, 12), (20, 34)))
    assert found(mask, mask) == []
    assert found(np.roll(mask, 1, axis=1), mask) == []


def test_a_gap_is_a_break_with_its_place_length_and_lumen():
    real = rods(TRUNK)
    guess = real.copy()
    guess[20:30] = False
    (gap,) = found(guess, real)
    assert gap.kind == "false break"
    assert abs(gap.voxel[0] - 24.5) <= 1.5
    assert gap.voxel[1:] == (12, 4)
    assert gap.length == pytest.approx(10 * SPACING[0], abs=2.5 * SPACING[0])
    assert 2 <= gap.lumen <= 3  # 5 voxels of 0.5, 3 of 1.0


def test_what_is_missed_is_told_apart_by_the_ends_at_which_it_joins():
    branch, island = ((20, 12), (20, 34)), ((38, 24), (38, 36))
    real = rods(TRUNK, branch, island)
    kinds = {piece.kind: piece for piece in found(rods(TRUNK), real)}
    assert set(kinds) == {"missed branch", "missed vessel"}
    assert kinds["missed vessel"].voxel[0] == 38
    assert kinds["missed branch"].length == pytest.approx(20 * SPACING[1], rel=0.25)


def test_what_is_predicted_too_much_is_named_from_the_other_side():
    second = ((4, 30), (43, 30))
    real = rods(TRUNK, second)
    bridge = rods(TRUNK, second, ((24, 12), (24, 30)))
    (merge,) = found(bridge, real)
    assert (merge.kind, merge.voxel[0]) == ("false merge", 24)
    assert [piece.kind for piece in found(rods(TRUNK, second), rods(TRUNK))] == ["false vessel"]


def test_an_empty_prediction_misses_the_whole_vessel_and_an_empty_truth_has_none():
    empty = np.zeros(SHAPE, dtype=bool)
    assert [piece.kind for piece in found(empty, rods(TRUNK))] == ["missed vessel"]
    assert [piece.kind for piece in found(rods(TRUNK), empty)] == ["false vessel"]
    assert found(empty, empty) == []


def test_a_single_voxel_is_as_long_as_a_voxel():
    lone = np.zeros(SHAPE, dtype=bool)
    lone[5, 5, 5] = True
    (dot,) = found(np.zeros(SHAPE, dtype=bool), lone)
    assert (dot.length, dot.lumen, dot.voxel) == (0.5, 0.5, (5, 5, 5))


def errors(guess, real, **settings):
    config = EvaluationConfig(**settings)
    return centrelines.errors(Region(guess), Region(real), SPACING, config)


def ring():
    """A closed loop in the middle plane."""
    corners = ((8, 8), (30, 8)), ((30, 8), (30, 30)), ((30, 30), (8, 30)), ((8, 30), (8, 8))
    return rods(*corners, thick=1)


def test_components_and_loops_are_counted_and_a_cavity_is_no_loop():
    assert Region(np.zeros(SHAPE, dtype=bool)).betti == (0, 0)
    assert Region(rods(TRUNK, ((4, 30), (43, 30)))).betti == (2, 0)
    assert Region(ring()).betti == (1, 1)
    hollow = rods(TRUNK)
    hollow[20, 12, 4] = False
    assert Region(hollow).betti == (1, 0)


def test_errors_of_topology_are_counted_against_the_truth():
    real = ring()
    cut = real.copy()
    cut[15:22, 5:11] = False
    assert errors(real, real) == dict.fromkeys(names.COUNTS, 0)
    found = errors(cut, real)
    assert (found["betti0_error"], found["betti1_error"], found["false_breaks"]) == (0, 1, 1)
    assert (found["false_merges"], errors(real, cut)["false_merges"]) == (0, 1)
    forked = rods(TRUNK, ((20, 12), (20, 34)))
    assert errors(rods(TRUNK), forked)["junction_error"] == 1


def test_breaks_of_an_empty_mask_are_undefined_and_its_components_are_not():
    found = errors(np.zeros(SHAPE, dtype=bool), ring())
    assert (found["false_breaks"], found["false_merges"]) == (None, None)
    assert (found["betti0_error"], found["betti1_error"]) == (1, 1)


def test_a_piece_below_the_stated_length_does_not_count():
    real = ring()
    cut = real.copy()
    cut[15:22, 5:11] = False
    assert errors(cut, real, fault_length=30)["false_breaks"] == 0
    assert errors(cut, real, fault_length=2)["false_breaks"] == 1
