"""The same work against a real MLflow server, where artifacts travel by HTTP."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.faults import Server
from minivess import names
from minivess.config import TrackingConfig
from minivess.errors import StoreError
from minivess.home import open_home
from minivess.tracking.run.run_lifecycle import mlflow_run
from minivess.tracking.store import registry
from minivess.tracking.store.store import Store, open_store
from tests.tracking.conftest import QUIET, profile_of

pytestmark = pytest.mark.slow


@pytest.fixture
def server(tmp_path: Path, blank: Path) -> Iterator[Server]:
    """A server on a free port."""
    started = Server(tmp_path)
    shutil.copy(blank, started.database)
    started.start()
    yield started
    if started.process.poll() is None:
        started.kill()


def test_a_server_serves_as_the_file_does_and_its_death_ends_in_one_sentence(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    store = open_store(open_home(tmp_path / "other home"), TrackingConfig(uri=server.uri))
    store.probe_write()
    run_id = work(store, tmp_path)
    found = store.find("k", experiment="over http")
    assert found is not None
    assert found.run_id == run_id
    assert store.artifacts(run_id, "model") == {"model/MLmodel": 3}
    assert store.read_json(run_id, "a/b.json") == [1]
    with pytest.raises(StoreError, match="no artifact a/none"):
        store.read_text(run_id, "a/none")
    fetched = store.download(run_id, "checkpoints", tmp_path / "fetched")
    assert (fetched / "last.pth").read_bytes() == b"x" * 100_000
    version = registry.register(store, name="served", run_id=run_id, note="n", tags={})
    registry.set_alias(store, "served", names.CHAMPION_ALIAS, version)
    assert registry.by_alias(store, "served", names.CHAMPION_ALIAS).run_id == run_id
    server.kill()
    with pytest.raises(StoreError, match="Could not search the runs"):
        store.find("k", experiment="over http")


def work(store: Store, tmp_path: Path) -> str:
    """A run with everything that a run may hold."""
    checkpoint = tmp_path / "last.pth"
    checkpoint.write_bytes(b"x" * 100_000)
    with mlflow_run(
        store, experiment="over http", name="r", kind=names.FAMILY, key="k", note="n",
        dataset="d", config=QUIET, ingredients={},
    ) as run:  # fmt: skip
        run.params({"ids": ["case"] * 200})
        run.metrics({"val_dice": 0.5}, step=0)
        run.dataset(profile_of())
        run.file(checkpoint, "checkpoints")
        run.json([1], "a/b.json")
        run.table([{"case": "a", "dice": 0.5}], names.PER_VOLUME_ARTIFACT)
        run.text("ok\n", "model/MLmodel")
    return run.run_id
