"""The same work against a real MLflow server, where artifacts travel by HTTP."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from minivess import config, names
from minivess.config import TrackingConfig
from minivess.errors import StoreError
from minivess.home import open_home
from minivess.tracking import registry
from minivess.tracking.life import recorded
from minivess.tracking.store import Store, open_store
from tests.tracking.conftest import QUIET, profile_of

pytestmark = pytest.mark.slow
START_S = 120


@dataclass(frozen=True)
class Server:
    """A server process and its address."""

    process: subprocess.Popen[bytes]
    uri: str

    def answers(self) -> bool:
        """Whether it is ready."""
        assert self.process.poll() is None, "the server ended"
        try:
            urllib.request.urlopen(f"{self.uri}/health", timeout=2).close()
        except OSError:
            return False
        return True

    def stop(self) -> None:
        """End it with all its workers."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture
def server(store: Store, tmp_path: Path) -> Iterator[Server]:
    """A server over the tests' database, on a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    words = ["--host", "127.0.0.1", "--port", port, "--workers", "1"]
    words += ["--backend-store-uri", store.uri]
    words += ["--artifacts-destination", str(tmp_path / "artifacts")]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *words],
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=config.child_environment(),
        )
    started = Server(process, f"http://127.0.0.1:{port}")
    try:
        deadline = time.monotonic() + START_S
        while not started.answers():
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.1)
        yield started
    finally:
        started.stop()


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
    server.stop()
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
