"""How far a step is: a bar in a terminal, nothing in a file, and Prefect's page in any case."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from minivess.config import Environment, ExperimentConfig
from minivess.home import Home
from minivess.orchestration.base import Orchestrator
from minivess.orchestration.session import Session


class Page(Orchestrator):
    """Remembers what it was asked to show."""

    def progress(self, key: str, description: str = "") -> Callable[[float], None]:
        self.shown: list[float] = []
        return self.shown.append


@pytest.mark.parametrize("terminal", [True, False])
def test_a_bar_is_drawn_where_somebody_sees_it(
    home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1" if terminal else "")
    page = Page(home)
    with Session(ExperimentConfig(), Environment(), home, page).progress("volumes") as tell:
        tell(1, 2)
        tell(2, 2)
    assert ("2/2" in capsys.readouterr().out) == terminal
    assert page.shown == [0.5, 1.0]
