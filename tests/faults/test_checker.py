"""The checker of journals against stores passes what is right and names what is not."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from minivess.config import TrackingConfig
from minivess.home import Home
from minivess.tracking.run.dead_runs import upload_journals
from minivess.tracking.store.store import open_store
from tests.faults import checker
from tests.tracking.replay import written

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("stocked")]

DAMAGE = {
    "UPDATE metrics SET value = value + 1 WHERE key = 'a' AND step = 2": "metric a: lost",
    "DELETE FROM metrics WHERE key = 'b' AND step = 1": "metric b: lost",
    "INSERT INTO metrics SELECT key, value, timestamp + 1, run_uuid, step, is_nan FROM metrics "
    "WHERE key = 'a' AND step = 1": "metric a: lost [], too many [(1",
    "UPDATE metrics SET timestamp = timestamp - 60000 WHERE key = 'a' AND step = 2": "out of order",
    "UPDATE params SET value = '0.2' WHERE key = 'learning_rate'": "params learning_rate: '0.2'",
    "DELETE FROM tags WHERE key = 'seen'": "tags seen: None",
    "UPDATE runs SET status = 'FAILED'": "the status is FAILED",
    "UPDATE runs SET lifecycle_stage = 'deleted'": "0 runs have the uid",
}


@pytest.fixture
def stored(home: Home, tmp_path: Path) -> Path:
    """A copy of a journal that was uploaded."""
    store = open_store(home, TrackingConfig())
    uid = written(store, "tubes", steps=4)
    (tmp_path / "copy").write_bytes((home.journal / f"{uid}.jsonl").read_bytes())
    upload_journals(store)
    return tmp_path / "copy"


def test_what_was_uploaded_is_as_it_was_written_and_every_damage_is_named(
    stored: Path, home: Home
) -> None:
    assert checker.differences(stored, home.database) == []
    before = home.database.read_bytes()
    for damage, said in DAMAGE.items():
        with closing(sqlite3.connect(home.database)) as database:
            assert database.execute(damage).rowcount == 1
            database.commit()
        found = checker.differences(stored, home.database)
        assert len(found) == 1, (damage, found)
        assert said in found[0]
        home.database.write_bytes(before)
    (artifact,) = home.root.rglob("artifacts/a/b.json")
    artifact.unlink()
    assert checker.differences(stored, home.database) == ["the artifact a/b.json is lost"]
