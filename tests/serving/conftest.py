"""A tiny network, trained by nobody, and volumes to run it on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from minivess import networks
from minivess.config import ModelConfig
from minivess.contracts import Case, Composition, Network, Part, Risk, Shape, Window
from minivess.serving import model_record
from tests.conftest import tube, write_nifti

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def network() -> Network:
    """A DynUNet of three small levels that takes thin volumes; three classes."""
    model = ModelConfig(
        name="dynunet", family="dynunet", builder="minivess.networks:dynunet", filters=(4, 8, 8)
    )
    return networks.resolve(model, in_channels=1, out_channels=3, min_shape=(24, 24, 5))


@pytest.fixture(scope="session")
def window() -> Window:
    """A window smaller than the volumes below, so that several blend."""
    return Window(patch_size=(16, 16, 4), overlap=0.25, normalisation="zscore")


@pytest.fixture(scope="session")
def composition(network: Network, window: Window) -> Composition:
    """The network as a model of one."""
    return Composition(parts=(Part(network=network, window=window),))


@pytest.fixture(scope="session")
def checkpoint(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its random weights."""
    path = tmp_path_factory.mktemp("cell") / "best.pth"
    torch.save({"weights": networks.initial(network, seed=3).state_dict()}, path)
    return path


@pytest.fixture(scope="session")
def onnx(network: Network, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exported network."""
    from minivess.serving import export

    return export.to_onnx(network, checkpoint, tmp_path_factory.mktemp("export") / "model.onnx")


def make_case(folder: Path, name: str, shape: Shape) -> Case:
    """A tube on an oblique grid with spacing in micron."""
    image, _ = tube(shape, seed=sum(shape))
    path = write_nifti(folder / f"{name}.nii.gz", image, spacing=(0.5, 0.5, 2.0))
    return Case(case=name, image=path, label=None)


@pytest.fixture
def cases(tmp_path: Path) -> tuple[Case, ...]:
    """Two whole volumes, one of five slices."""
    shapes = {"thin": (24, 20, 5), "deep": (20, 24, 11)}
    return tuple(make_case(tmp_path / "in", name, shape) for name, shape in shapes.items())


def agreement(one: np.ndarray, other: np.ndarray) -> float:
    """Share of equal voxels."""
    return float((one == other).mean())


RISKS = (
    Risk(loss="missed_foreground", alpha=0.2, n=12, unit="volume", smallest_alpha=1 / 13,
         threshold=0.31, bound=0.19, splits=0, simulated=None, within=None),
    Risk(loss="false_foreground", alpha=0.2, n=2, unit="volume", smallest_alpha=1 / 3,
         threshold=None, bound=None, splits=0, simulated=None, within=None),
)  # fmt: skip
LINEAGE = {"training_run_id": "a1b2", "analysis_run_id": "c3d4", "dataset_hash": "e5f6.dir"}


@pytest.fixture(scope="session")
def model(network: Network, window: Window) -> model_record.ServedModel:
    """The record of the tiny network, with label values that are no channel numbers."""
    return model_record.ServedModel(
        name="tubes",
        version="1",
        network=network,
        window=window,
        divisor=networks.divisor(network),
        classes=(0, 2, 5),
        lineage=LINEAGE,
    )
