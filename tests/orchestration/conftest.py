"""Homes whose Prefect server starts at once: a fresh database takes Prefect several seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from minivess.home import Home, open_home


@pytest.fixture
def warm_home(warm_prefect: Callable[[Home], None], tmp_path: Path) -> Callable[[], Home]:
    """Make homes without a server, whose Prefect database exists already."""

    def make() -> Home:
        home = open_home(tmp_path / "warm")
        warm_prefect(home)
        return home

    return make
