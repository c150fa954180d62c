"""Skeletons by erosion and dilation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as nnf

from minivess import soft_skeleton

EXTENTS = st.tuples(*[st.integers(1, 7)] * 3)


def random_volume(shape: tuple[int, int, int], seed: int) -> Tensor:
    return torch.rand((1, 1, *shape), generator=torch.Generator().manual_seed(seed))


@settings(max_examples=30, deadline=None)
@given(EXTENTS, st.integers(0, 1000))
def test_dilation_is_max_pooling(shape: tuple[int, int, int], seed: int) -> None:
    volume = random_volume(shape, seed)
    assert torch.equal(soft_skeleton.dilated(volume), nnf.max_pool3d(volume, 3, 1, 1))


@settings(max_examples=30, deadline=None)
@given(EXTENTS, st.integers(0, 1000))
def test_gradients_go_where_the_values_came_from(shape: tuple[int, int, int], seed: int) -> None:
    ours, theirs = (random_volume(shape, seed).requires_grad_() for _ in range(2))
    weights = random_volume(shape, seed + 1)
    (soft_skeleton.dilated(ours) * weights).sum().backward()
    (nnf.max_pool3d(theirs, 3, 1, 1) * weights).sum().backward()
    assert torch.allclose(ours.grad, theirs.grad)


@settings(max_examples=20, deadline=None)
@given(EXTENTS, st.integers(0, 1000))
def test_values_are_the_same_with_and_without_gradients(
    shape: tuple[int, int, int], seed: int
) -> None:
    volume = random_volume(shape, seed)
    with_gradients = soft_skeleton.soft(volume.clone().requires_grad_(), 3)
    assert torch.equal(with_gradients.detach(), soft_skeleton.soft(volume, 3))


@settings(max_examples=20, deadline=None)
@given(EXTENTS, st.integers(0, 1000))
def test_hard_and_soft_skeletons_of_a_hard_mask_agree(
    shape: tuple[int, int, int], seed: int
) -> None:
    mask = random_volume(shape, seed) > 0.3
    line, erosions = soft_skeleton.hard(mask, 10)
    assert torch.equal(line.float(), soft_skeleton.soft(mask.float(), erosions))


def rod(slices: int) -> Tensor:
    """A straight vessel of radius 4 along z, through the whole stack."""
    x, y = torch.meshgrid(torch.arange(15), torch.arange(15), indexing="ij")
    disc = (x - 7) ** 2 + (y - 7) ** 2 <= 16
    return disc[None, None, :, :, None].expand(1, 1, 15, 15, slices).clone()


@pytest.mark.parametrize("slices", [1, 2, 5, 20])
def test_a_vessel_through_a_stack_keeps_its_line_in_each_slice(slices: int) -> None:
    line, _ = soft_skeleton.hard(rod(slices), 10)
    assert line[0, 0, 7, 7].all()
    assert line.sum() < 0.2 * rod(slices).sum()


def test_the_iterations_follow_the_thickest_vessel() -> None:
    assert soft_skeleton.hard(rod(9), 10)[1] == 5
    assert soft_skeleton.hard(rod(9), 2)[1] == 2
    assert soft_skeleton.hard(torch.zeros(1, 1, 4, 4, 4, dtype=torch.bool), 10)[1] == 0


def test_distances_count_voxels_to_the_outside() -> None:
    assert soft_skeleton.distance(rod(9))[0, 0, 7, 7, 4].item() == pytest.approx(17**0.5)
    assert soft_skeleton.distance(torch.ones(1, 1, 3, 3, 3, dtype=torch.bool)).unique() == 1


def test_the_tubed_skeleton_lies_within_two_voxels_of_the_line_and_inside_its_class() -> None:
    labels = torch.zeros(1, 1, 24, 15, 15, dtype=torch.uint8)
    labels[..., :12, 3:12, 3:12], labels[..., 12:, 3:12, 3:12] = 1, 2
    tube = soft_skeleton.tubed(labels)
    assert set(tube.unique().tolist()) == {0, 1, 2}
    assert torch.equal(tube[tube > 0], labels[tube > 0])
    x, y, z = np.nonzero(tube[0, 0].numpy())
    assert (abs(y - 7) + abs(z - 7) <= 3).all()
    assert len(set(x)) >= 12


def test_no_foreground_has_no_tubed_skeleton() -> None:
    assert not soft_skeleton.tubed(torch.zeros(2, 1, 8, 8, 4, dtype=torch.uint8)).any()
