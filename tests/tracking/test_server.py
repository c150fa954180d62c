"""The same work against a real MLflow server, where artifacts travel by HTTP."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from minivess import config, names
from minivess.config import TrackingConfig
from minivess.errors import StoreError
from minivess.home import open_home
from minivess.tracking import registry
from minivess.tracking.run import recorded
from minivess.tracking.store import Store, open_store
from tests.tracking.conftest import QUIET, profile_of

pytestmark = pytest.mark.slow
START_S = 120


@pytest.fixture(scope="module")
def server(
    store: Store, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[subprocess.Popen[bytes]]:
    """A server over the tests' database, on a free port; ended with all its workers."""
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
             "--backend-store-uri", store.uri, "--artifacts-destination", str(folder / "artifacts")]  # fmt: skip
    with (folder / "log").open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *words],
            stdout=log, stderr=log, start_new_session=True, env=config.child_environment(),
        )  # fmt: skip
    child.address = f"http://127.0.0.1:{port}"  # type: ignore[attr-defined]
    try:
        _wait(child)
        yield child
    finally:
        _stop(child)


def _wait(child: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert child.poll() is None, "the server ended"
        try:
            urllib.request.urlopen(f"{child.address}/health", timeout=2).close()  # type: ignore[attr-defined]
        except OSError:
            time.sleep(0.1)
        else:
            return
    pytest.fail("the server did not start")


def _stop(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def test_a_server_serves_as_the_file_does_and_its_death_ends_in_one_sentence(
    server: subprocess.Popen[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    uri: str = server.address  # type: ignore[attr-defined]
    store = open_store(open_home(tmp_path / "other home"), TrackingConfig(uri=uri))
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
    _stop(server)
    with pytest.raises(StoreError, match="Could not search the runs"):
        store.find("k", experiment="over http")


def work(store: Store, tmp_path: Path) -> str:
    """A run with everything that a run may hold."""
    checkpoint = tmp_path / "last.pth"
    checkpoint.write_bytes(b"x" * 100_000)
    with recorded(
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
