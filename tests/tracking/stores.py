"""The stores that one suite has to pass on, each started by the test that needs it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.faults import Server, free_port
from minivess.config import TrackingConfig
from minivess.errors import StoreError
from minivess.home import open_home
from minivess.tracking.store.store import Store, open_store

KINDS = ("sqlite", "server", "postgres")


@contextmanager
def opened(kind: str, folder: Path, blank: Path) -> Iterator[Store]:
    """A fresh store of a kind, in a folder whose name has a space; `blank` is an empty SQLite."""
    home = open_home(folder / "a home")
    if kind == "sqlite":
        shutil.copy(blank, home.database)
        yield open_store(home, TrackingConfig())
    elif kind == "server":
        server = Server(folder)
        shutil.copy(blank, server.database)
        server.start()
        try:
            yield open_store(home, TrackingConfig(uri=server.uri))
        finally:
            server.kill()
    else:
        with postgres() as uri:
            yield open_store(home, TrackingConfig(uri=uri))


@contextmanager
def postgres() -> Iterator[str]:
    """The address of an empty database of a PostgreSQL of our own, which refuses to run as root."""
    pytest.importorskip("psycopg", reason="pip install 'psycopg[binary]'")
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    found = shutil.which("initdb")
    if found is None and not installed:
        pytest.skip("PostgreSQL is not installed (Debian: apt install postgresql)")
    programs = Path(found).resolve().parent if found else installed[-1]
    user = "nobody" if os.geteuid() == 0 else None
    # pytest's own folders are closed to other users.
    folder = Path(tempfile.mkdtemp(prefix="minivess-postgres-"))
    if user is not None:
        shutil.chown(folder, user)
    data, port = folder / "data", free_port()
    words = [
        str(programs / "initdb"),
        "-D",
        str(data),
        "-U",
        "minivess",
        "-A",
        "trust",
        "-E",
        "UTF8",
        "-N",
    ]
    subprocess.run(words, check=True, capture_output=True, user=user, cwd=folder)
    words = [str(programs / "postgres"), "-D", str(data), "-p", str(port), "-k", str(folder), "-F"]
    with (folder.with_suffix(".log")).open("wb") as log:
        server = subprocess.Popen(
            [*words, "-c", "listen_addresses=127.0.0.1"],
            stdout=log, stderr=log, user=user, cwd=folder,
        )  # fmt: skip
    try:
        uri = f"postgresql+psycopg://minivess@127.0.0.1:{port}/postgres"
        _wait(uri)
        yield uri
    finally:
        # SIGINT is PostgreSQL's fast shutdown.
        server.send_signal(2)
        server.wait(300)
        shutil.rmtree(folder)
        folder.with_suffix(".log").unlink()


def _wait(uri: str) -> None:
    from minivess.tracking.store.connection import probe_store

    deadline = time.monotonic() + 300
    while True:
        try:
            return probe_store(uri)
        except StoreError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.1)
