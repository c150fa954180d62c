"""One store of each kind for the tests of this room; each test keeps to its own experiment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from minivess import names
from minivess.config import ExperimentConfig, TrackingConfig
from minivess.contracts import DatasetProfile, Fold, Loss, LossTerm, Network, Split, VolumeStats
from minivess.tracking.run.run import Run
from minivess.tracking.run.run_lifecycle import mlflow_run
from minivess.tracking.store.store import Store
from tests.tracking import stores

QUIET = ExperimentConfig(tracking=TrackingConfig(log_system_metrics=False))
OpenRun = Callable[..., AbstractContextManager[Run]]


EVERYWHERE = ("test_run", "test_store")
"""What a store must do, whichever it is; the other tests are content with SQLite."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the suite of the door against every kind of store."""
    if "store" in metafunc.fixturenames:
        module = metafunc.module.__name__.rpartition(".")[2]
        kinds = stores.KINDS if module in EVERYWHERE else ("sqlite",)
        metafunc.parametrize("store", kinds, indirect=True, scope="session", ids=kinds)


@pytest.fixture(scope="session")
def store(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, blank: Path
) -> Iterator[Store]:
    """A real store."""
    with stores.opened(request.param, tmp_path_factory.mktemp(request.param), blank) as found:
        yield found


@pytest.fixture
def experiment(request: pytest.FixtureRequest) -> str:
    """An experiment that no other test writes to."""
    return str(request.node.name).replace("[", " ").rstrip("]")


@pytest.fixture
def open_run(store: Store, experiment: str) -> OpenRun:
    """`mlflow_run` with everything filled in that a test does not care for."""

    def begin(**changes: Any) -> AbstractContextManager[Run]:
        given: dict[str, Any] = {
            "experiment": experiment,
            "name": "run",
            "kind": names.CELL,
            "key": "key",
            "note": "A run of a test.",
            "dataset": "tubes",
            "config": QUIET,
            "ingredients": {"seed": 1},
        }
        return mlflow_run(store, **{**given, **changes})

    return begin


def volume(case: str) -> VolumeStats:
    """Plausible numbers of one volume."""
    return VolumeStats(
        case=case,
        filename=f"images/{case}.nii.gz",
        label_filename=f"labels/{case}.nii.gz",
        group=None,
        shape=(24, 24, 5),
        voxel_spacing=(0.5, 0.5, 2.0),
        unit="um",
        dtype="uint16",
        intensity_min=0,
        intensity_max=900,
        intensity_mean=300,
        intensity_std=50,
        percentiles={"0.5": 200, "50": 300, "99.5": 800},
        foreground_ratio=0.1,
        label_values=(0, 1),
        components=1,
        size_bytes=1000,
        content_hash=case,
    )


def profile_of(cases: tuple[str, ...] = ("a", "b", "c", "d")) -> DatasetProfile:
    """A profile of some cases."""
    return DatasetProfile(
        dataset="tubes",
        dataset_path="data/tubes",
        dataset_hash="0123456789abcdef0123456789abcdef.dir",
        curated="dvc/tubes",
        dvc_file="dvc/tubes.dvc",
        remote=None,
        n_volumes=len(cases),
        min_shape=(512, 512, 5),
        max_shape=(512, 512, 110),
        median_shape=(512, 512, 40),
        spacing_range=((0.5, 0.5, 1.0), (4.97, 4.97, 2.0)),
        is_anisotropic=True,
        total_size_gb=1.25,
        per_volume_mean_gb=0.3,
        outliers=(),
        warnings=(),
        classes=(0, 1),
        label_map={255: 1},
        volumes=tuple(volume(case) for case in cases),
        findings=(),
    )


SPLIT = Split(
    seed=42,
    grouped=False,
    folds=(
        Fold(index=0, train=("b", "c"), val=("a",)),
        Fold(index=1, train=("a", "c"), val=("b",)),
    ),
    test=("d",),
)
NETWORK = Network(
    name="dynunet",
    family="DynUNet",
    builder="minivess.networks:dynunet",
    in_channels=1,
    out_channels=2,
    filters=(4, 8, 8),
    kernel_size=((3, 3, 3),) * 3,
    strides=((1, 1, 1), (2, 2, 1), (2, 2, 1)),
    norm="instance",
    deep_supervision=False,
    dropout=0.0,
)
LOSS = Loss(
    name="cbdice_cldice",
    terms=(
        LossTerm(loss="cbdice", weight=0.5),
        LossTerm(loss="dice_ce_cldice", weight=0.5),
    ),
)
