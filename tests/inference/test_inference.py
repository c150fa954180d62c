"""A network over a whole volume."""

from __future__ import annotations

import itertools
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from minivess import config, inference, networks
from minivess.config import ExperimentConfig
from minivess.contracts import Normalisation, Shape, VolumeStats, Window
from minivess.data.profiling.intensities import sort_values
from minivess.inference import Predictor


def window(
    patch: Shape = (16, 16, 8), overlap: float = 0.25, how: Normalisation = "zscore", **more: Any
) -> Window:
    return Window(patch_size=patch, overlap=overlap, normalisation=how, **more)


def volume(shape: Shape, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(0).normal(3, 2, (channels, *shape)).astype(np.float32)


def double(part: Tensor) -> Tensor:
    """A voxelwise network of two channels."""
    return torch.cat([part, 2 * part], dim=1)


@settings(max_examples=20, deadline=None)
@given(st.tuples(st.integers(1, 30), st.integers(1, 30), st.integers(1, 12)))
def test_a_voxelwise_network_gives_the_same_in_windows_as_at_once(shape: Shape) -> None:
    image = volume(shape)
    logits = Predictor(double, window(), (4, 4, 2)).logits(image)
    assert logits.shape == (2, *shape)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, np.concatenate([image, 2 * image]), rtol=1e-4, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(
    st.tuples(st.integers(5, 40), st.integers(5, 40), st.integers(1, 20)),
    st.sampled_from([0.0, 0.25, 0.5]),
)
def test_windows_are_counted_as_they_are_run(shape: Shape, overlap: float) -> None:
    ran = []

    def counting(part: Tensor) -> Tensor:
        ran.append(part.shape[0])
        return part

    chosen = window((8, 16, 4), overlap)
    Predictor(counting, chosen, (4, 4, 2)).logits(volume(shape))
    assert sum(ran) == inference.windows(shape, chosen, (4, 4, 2))


def placed(part: Tensor) -> Tensor:
    """A network whose answer depends on where in its window a voxel lies, and on all of them."""
    ramps = torch.meshgrid(*(torch.arange(float(n)) for n in part.shape[2:]), indexing="ij")
    where = ramps[0] + 3 * ramps[1] - 2 * ramps[2]
    return torch.cat([part * where, where + part.mean((2, 3, 4), keepdim=True)], dim=1)


def starts(extent: int, side: int, overlap: float) -> list[int]:
    """Where windows begin along an axis: a stride apart, the last one ending with the volume."""
    stride = max(1, int(side * (1 - overlap)))
    count = -(-(extent - side) // stride) + 1
    return [min(n * stride, extent - side) for n in range(count)]


def weights(sides: Shape) -> np.ndarray:
    """A Gaussian of an eighth of each side around the centre, nowhere below its corner or 0.001."""
    grids = np.meshgrid(*(np.arange(side) - (side - 1) / 2 for side in sides), indexing="ij")
    squares = sum((grid / (0.125 * side)) ** 2 for grid, side in zip(grids, sides, strict=True))
    peak = np.exp(-squares / 2)
    return np.maximum(peak, max(peak.min(), 1e-3))


def blended(image: np.ndarray, sides: Shape, overlap: float) -> np.ndarray:
    """The mean of all windows over a voxel, weighted by where in them it lies."""
    shape = image.shape[1:]
    short = [max(side - extent, 0) for extent, side in zip(shape, sides, strict=True)]
    image = np.pad(image, [(0, 0), *((gap // 2, gap - gap // 2) for gap in short)])
    total, share = np.zeros((2, *image.shape[1:])), np.zeros(image.shape[1:])
    axes = (starts(n, side, overlap) for n, side in zip(image.shape[1:], sides, strict=True))
    for corner in itertools.product(*axes):
        here = tuple(slice(a, a + side) for a, side in zip(corner, sides, strict=True))
        part = torch.from_numpy(image[(slice(None), *here)])[None]
        total[(slice(None), *here)] += weights(sides) * placed(part)[0].numpy()
        share[here] += weights(sides)
    inner = tuple(slice(gap // 2, gap // 2 + n) for gap, n in zip(short, shape, strict=True))
    return (total / share)[(slice(None), *inner)]


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.integers(3, 30), st.integers(3, 30), st.integers(1, 14)),
    st.sampled_from([0.0, 0.25, 0.5, 0.7]),
)
def test_overlapping_windows_are_blended_by_a_gaussian(shape: Shape, overlap: float) -> None:
    image, chosen = volume(shape), window((8, 12, 4), overlap)
    logits = Predictor(placed, chosen, (4, 4, 2)).logits(image)
    expected = blended(image, inference.roi(shape, chosen, (4, 4, 2)), overlap)
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-3)


def test_a_window_is_never_larger_than_the_volume_rounded_up() -> None:
    assert inference.roi((10, 64, 5), window((32, 32, 16)), (4, 4, 2)) == (12, 32, 6)


def test_every_window_suits_the_network() -> None:
    model = config.model("dynunet", {"filters": [4, 8, 8]})
    network = networks.resolve(model, in_channels=1, out_channels=2, min_shape=(16, 16, 8))
    module = networks.initial(network, seed=0).eval()
    divisor = networks.divisor(network)
    for shape in [(7, 9, 3), (16, 16, 8), (21, 33, 11)]:
        logits = Predictor(module, window(), divisor).logits(volume(shape))
        assert logits.shape == (2, *shape)


def test_a_volume_of_one_window_gets_what_the_network_says() -> None:
    model = config.model("dynunet", {"filters": [4, 8, 8]})
    network = networks.resolve(model, in_channels=1, out_channels=2, min_shape=(16, 16, 8))
    module = networks.initial(network, seed=0).eval()
    image = volume((16, 16, 8))
    with torch.inference_mode():
        expected = module(torch.from_numpy(image)[None])[0].numpy()
    logits = Predictor(module, window(), (4, 4, 2)).logits(image)
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_half_precision_is_used_inside_and_not_outside() -> None:
    seen = []

    def remember(part: Tensor) -> Tensor:
        mixed = torch.nn.functional.conv3d(part, torch.ones(1, 1, 1, 1, 1))
        seen.append(mixed.dtype)
        return mixed

    predictor = Predictor(remember, window(), (1, 1, 1), precision="bf16")
    logits = predictor.logits(volume((16, 16, 8)))
    assert seen == [torch.bfloat16]
    assert logits.dtype == np.float32


def test_zscore_has_mean_zero_and_deviation_one_in_each_channel() -> None:
    scaled = inference.normalise(volume((12, 12, 6), channels=2), window())
    np.testing.assert_allclose(scaled.mean((1, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(scaled.std((1, 2, 3)), 1, atol=1e-4)


def test_minmax_reaches_from_zero_to_one() -> None:
    scaled = inference.normalise(volume((12, 12, 6)), window(how="minmax"))
    assert (scaled.min(), scaled.max()) == (0, 1)


def test_no_normalisation_leaves_the_values() -> None:
    image = volume((4, 4, 4))
    np.testing.assert_array_equal(inference.normalise(image, window(how="none")), image)


@pytest.mark.parametrize("how", ["zscore", "minmax"])
def test_a_constant_volume_becomes_zero(how: Literal["zscore", "minmax"]) -> None:
    assert not inference.normalise(np.full((1, 4, 4, 4), 7, np.float32), window(how=how)).any()


def stats(image: np.ndarray) -> VolumeStats:
    return VolumeStats.model_construct(**sort_values(image).numbers())


def test_the_scale_of_the_training_volumes_keeps_dark_volumes_dark() -> None:
    bright, dark = volume((12, 12, 6)) + 100, volume((12, 12, 6))
    config = ExperimentConfig.model_validate({"data": {"normalisation": "dataset"}})
    found = inference.window_for(config, (16, 16, 8), [stats(bright), stats(dark)])
    low, high = (inference.normalise(image, found) for image in (dark, bright))
    np.testing.assert_allclose(np.concatenate([low, high]).std(), 1, atol=0.01)
    assert low.max() < 0 < high.min()
    assert low.mean() + high.mean() == pytest.approx(0, abs=0.01)


def test_a_value_beyond_the_training_volumes_is_clipped() -> None:
    config = ExperimentConfig.model_validate({"data": {"normalisation": "dataset"}})
    found = inference.window_for(config, (16, 16, 8), [stats(volume((12, 12, 6)))])
    spoilt = volume((12, 12, 6))
    spoilt[0, 0, 0, 0] = 1e6
    assert inference.normalise(spoilt, found).max() < 4


def test_mirrored_copies_make_the_answer_the_same_for_a_mirrored_volume() -> None:
    model = config.model("dynunet", {"filters": (4, 8, 16)})
    network = networks.resolve(model, in_channels=1, out_channels=2, min_shape=(16, 16, 8))
    module = networks.initial(network, seed=0).eval()
    image = volume((16, 16, 8))
    for mirrored, same in ((), False), ((0, 1), True):
        predictor = Predictor(module, window(mirrored=mirrored), (4, 4, 2))
        turned = predictor.logits(image[:, ::-1])[:, ::-1]
        assert np.allclose(predictor.logits(image), turned, atol=1e-4) is same
    assert inference.passes(window(mirrored=(0, 1))) == 4


def test_probabilities_sum_to_one_and_agree_with_the_mask() -> None:
    logits = 50 * volume((6, 6, 4), channels=3)
    shares = inference.probabilities(logits)
    np.testing.assert_allclose(shares.sum(axis=0), 1, rtol=1e-5)
    mask = inference.mask(logits)
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(shares.argmax(axis=0), mask)


@pytest.mark.parametrize("shape", [(9, 40, 7), (40, 37, 21), (6, 5, 3)])
@pytest.mark.parametrize("how", ["zscore", "minmax", "none"])
@pytest.mark.parametrize("kind", [np.uint16, np.int16, np.float32])
def test_windows_cut_from_the_file_give_the_bits_of_a_whole_normalised_volume(
    shape: Shape, how: Literal["zscore", "minmax", "none"], kind: type
) -> None:
    from monai.inferers import sliding_window_inference

    torch.manual_seed(0)
    network = torch.nn.Conv3d(1, 2, 3, padding=1).eval()
    window = Window(patch_size=(16, 16, 8), overlap=0.5, normalisation=how)
    predictor = Predictor(network, window, (2, 2, 2))
    image: np.ndarray = np.random.default_rng(1).normal(1000, 300, (1, *shape)).astype(kind)
    whole = np.asfortranarray(image.astype(np.float32))
    with torch.inference_mode():
        expected = sliding_window_inference(
            torch.from_numpy(inference.normalise(whole, window))[None],
            inference.roi(shape, window, (2, 2, 2)), 4, network, overlap=0.5, mode="gaussian",
        )[0].numpy()  # fmt: skip
    assert np.array_equal(predictor.logits(inference.normalise(whole, window)), expected)
    assert np.array_equal(predictor.segment(np.asfortranarray(image)), expected.argmax(axis=0))
    shares = torch.softmax(torch.from_numpy(expected), 0).numpy()
    assert np.allclose(predictor.probabilities(image), shares, atol=1e-6)
