"""Fixtures shared by all tests: tiny real volumes, and a home that no user's store can be in."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
import pytest
from hypothesis import settings

from minivess.home import Home, open_home

if TYPE_CHECKING:
    from minivess.runtime.servers import Server

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


os.environ["MINIVESS_SERVER_IDLE_S"] = "0"  # no test leaves a server for the next one

SERVERS = {"prefect", "server", "postgres"}
"""Parameters by which a test starts a server."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what starts a server; begin with the files that do, or that train.

    The last file to begin decides the end.

    `just test` keeps xdist to this order; by itself it begins with the files of most tests.
    """
    for item in items:
        kinds = set(item.callspec.id.split("-")) if hasattr(item, "callspec") else set()
        if kinds & SERVERS or "served" in getattr(item, "fixturenames", ()):
            item.add_marker("slow")
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


# A laboratory's machine is busy: a slow example is no failure.
settings.register_profile("minivess", deadline=None)
settings.load_profile("minivess")


@pytest.fixture(autouse=True)
def _no_store_but_the_tests_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test can reach a user's MLflow, Prefect or output folder."""
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "PREFECT_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MINIVESS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "home" / "prefect"))
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "dvc-site"))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """An empty home folder."""
    return open_home(tmp_path / "home")


@pytest.fixture(scope="session")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database to copy: making one takes seconds."""
    from minivess.config import TrackingConfig
    from minivess.tracking.store.store import open_store

    home = open_home(tmp_path_factory.mktemp("blank"))
    open_store(home, TrackingConfig())
    return home.database


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Home, Server]]:
    """A home whose Prefect server runs until all tests are done."""
    from minivess.config import Environment
    from minivess.orchestration import prefect_server

    home = open_home(tmp_path_factory.mktemp("served"))
    with prefect_server.prefect_server(home, Environment(server_idle_s=0)) as server:
        yield home, server


@pytest.fixture(scope="session")
def warm_prefect(served: tuple[Home, Server]) -> Callable[[Home], None]:
    """Give a home Prefect's database: a fresh one takes Prefect several seconds."""

    def warm(home: Home) -> None:
        home.prefect.mkdir()
        source, copy = (sqlite3.connect(h.prefect / "prefect.db") for h in (served[0], home))
        with closing(source), closing(copy):
            source.backup(copy)

    return warm


@pytest.fixture(scope="session")
def stock(blank: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Home], None]:
    """Give a home what takes seconds to make: MLflow's database, and what is known of networks."""
    known = tmp_path_factory.mktemp("footprints")

    def fill(home: Home) -> None:
        shutil.copy(blank, home.database)
        home.footprints.symlink_to(known)

    return fill


@pytest.fixture
def stocked(stock: Callable[[Home], None], home: Home) -> None:
    """The home of this test is stocked."""
    stock(home)


def tube(shape: tuple[int, int, int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A bright oblique tube in noise: (image uint16, mask uint8), both (X, Y, Z)."""
    rng = np.random.default_rng(seed)
    x, y, z = np.indices(shape)
    centre_x = shape[0] / 2 + (y - shape[1] / 2) * rng.uniform(-0.5, 0.5)
    centre_z = shape[2] / 2
    mask = ((x - centre_x) ** 2 + (z - centre_z) ** 2 < (shape[0] / 6) ** 2).astype(np.uint8)
    image = rng.normal(300, 40, shape) + 400.0 * mask
    return image.clip(0, 4000).astype(np.uint16), mask


def write_nifti(path: Path, array: np.ndarray, spacing: tuple[float, ...] = (1, 1, 1)) -> Path:
    """Save an array as NIfTI with a diagonal affine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.diag([*spacing, 1.0])), path)
    return path


@pytest.fixture
def make_dataset(tmp_path: Path) -> Callable[..., Path]:
    """Make a folder of images/ and labels/ holding tiny tubes; returns the folder."""

    def make(n: int = 6, name: str = "tubes", value: int = 1, size: int = 24) -> Path:
        root = tmp_path / name
        for index in range(n):
            image, mask = tube((size, size + 2 * index, 5 + index), seed=index)
            write_nifti(root / "images" / f"vol{index:02d}.nii.gz", image)
            write_nifti(root / "labels" / f"vol{index:02d}.nii.gz", mask * np.uint8(value))
        return root

    return make


def shared(name: str) -> Path:
    """A folder of real volumes beside the project; the test skips where it is absent."""
    if not (SHARED / name).is_dir():
        pytest.skip(f"real volumes are not here: {SHARED / name}")
    return SHARED / name
