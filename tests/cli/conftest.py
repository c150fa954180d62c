"""The store that verbs use; whatever these tests get for programs keeps to its schema."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from minivess.cli import grammar, main, schema
from minivess.config import TrackingConfig
from minivess.home import open_home
from minivess.tracking.run.encoding import plain_json
from minivess.tracking.store.store import Store, open_store


@pytest.fixture
def store(tmp_path: Path, blank: Path) -> Store:
    """The store of the home that the verbs use."""
    home = open_home(tmp_path / "home")
    shutil.copy(blank, home.database)
    return open_store(home, TrackingConfig())


@pytest.fixture(autouse=True)
def _what_json_prints_keeps_to_its_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a test gets by `--json` is compared with `minivess VERB --schema`."""
    write, read = main._write, grammar.read
    typed: list[str] = []

    def reading(words: Sequence[str]) -> argparse.Namespace:
        options = read(words)
        typed[:] = [f"{options.verb} {options.action}".strip()]
        return options

    def checked(outcome: dict[str, Any]) -> None:
        jsonschema.validate(plain_json(outcome), schema.of(typed[0]))
        write(outcome)

    monkeypatch.setattr(main, "read", reading)
    monkeypatch.setattr(main, "_write", checked)
