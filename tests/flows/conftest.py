"""One Prefect server for all tests of flows: a fresh database takes Prefect several seconds."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from flows import servers
from flows.processes import Server
from minivess.config import changed_environment
from minivess.home import Home, open_home


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Home, Server]]:
    """A home whose Prefect server runs until all tests are done."""
    home = open_home(tmp_path_factory.mktemp("served"))
    # A second run of one deployment is looked at again after 30 s unless told.
    with (
        changed_environment(PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS="1"),
        servers.prefect_server(home) as server,
    ):
        yield home, server


@pytest.fixture
def warm_home(served: tuple[Home, Server], tmp_path: Path) -> Callable[[], Home]:
    """Make homes without a server, whose Prefect database exists already."""

    def make() -> Home:
        home = open_home(tmp_path / "warm")
        home.prefect.mkdir()
        source, copy = (sqlite3.connect(h.prefect / "prefect.db") for h in (served[0], home))
        with closing(source), closing(copy):
            source.backup(copy)
        return home

    return make
