"""Homes whose Prefect server starts at once: a fresh database takes Prefect several seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from minivess.home import Home, open_home
from minivess.orchestration import prefect_server


@pytest.fixture
def warm_home(warm_prefect: Callable[[Home], None], tmp_path: Path) -> Iterator[Callable[[], Home]]:
    """Make a home without a server, whose Prefect database exists already."""

    def make() -> Home:
        home = open_home(tmp_path / "warm")
        warm_prefect(home)
        return home

    yield make
    prefect_server.end_private(tmp_path / "warm" / "prefect", force=True)
