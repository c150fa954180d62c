"""Decisions are kept for good, are about bytes, and change what goes on."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minivess.config import DataConfig
from minivess.contracts import Pairing
from minivess.data.pairing.cases import pair_files
from minivess.data.profiling import profile as profiles
from minivess.data.profiling.profile import Measured
from minivess.data.versions.curated import file_index
from minivess.errors import DataError
from minivess.home import Home
from minivess.review import decide as deciding
from minivess.review import queue
from minivess.review.apply import Reviewed, after_review, rejections
from tests.conftest import tube, write_nifti


@dataclass
class Bench:
    """A folder of volumes, profiled as flow 1 does it."""

    home: Home
    root: Path

    def profile(self) -> tuple[Reviewed, Measured]:
        pairing = pair_files(self.root)
        hashes = file_index(self.home).hashes(files_of(pairing))
        reviewed = after_review(self.home, "tubes", pairing, hashes)
        measured = profiles.profile(
            reviewed.pairing,
            reviewed.hashes,
            config=DataConfig(),
            cache=self.home.profile_cache,
            accepted=reviewed.accepted,
        )
        queue.record_seen(
            self.home, "tubes", pairing, hashes, measured.findings, in_force=reviewed.in_force
        )
        return reviewed, measured

    def decide(self, verdict: queue.Verdict, case: str, **files: Path) -> None:
        replacements: dict[Any, Path] = dict(files)
        entry = queue.find(self.home, "tubes", case)
        deciding.decide(
            self.home, entry, verdict, who="Ada", why="looked", replacements=replacements
        )

    def waiting(self) -> list[str]:
        return [entry.case for entry in queue.entries(self.home, "tubes") if entry.is_open]


def files_of(pairing: Pairing) -> list[Path]:
    return [path for case in pairing.cases for path in case.files]


@pytest.fixture
def bench(make_dataset: Callable[..., Path], home: Home) -> Bench:
    """vol01 is constant (an error that may be accepted), vol02 has a label of another shape."""
    root = make_dataset(4)
    write_nifti(root / "images" / "vol01.nii.gz", np.full((24, 26, 6), 7, np.uint16))
    write_nifti(root / "labels" / "vol02.nii.gz", np.ones((9, 9, 9), np.uint8))
    return Bench(home, root)


def test_flagged_volumes_wait_until_something_is_decided(bench: Bench) -> None:
    bench.profile()
    assert bench.waiting() == ["vol01", "vol02"]
    bench.decide("reject", "vol02")
    assert bench.waiting() == ["vol01"]
    reviewed, measured = bench.profile()
    assert reviewed.rejected == ("vol02",)
    assert [volume.case for volume in measured.stats] == ["vol00", "vol03"]
    assert "by Ada" in rejections("d", reviewed)[0].message


def test_an_accepted_volume_goes_in_despite_its_error(bench: Bench) -> None:
    bench.profile()
    bench.decide("accept", "vol01")
    _, measured = bench.profile()
    assert "vol01" in {volume.case for volume in measured.stats}
    assert {f.severity for f in measured.findings if f.case == "vol01"} == {"warning"}
    assert bench.waiting() == ["vol02"]


def test_what_cannot_be_used_cannot_be_accepted(bench: Bench) -> None:
    bench.profile()
    with pytest.raises(DataError, match="cannot be used") as refused:
        bench.decide("accept", "vol02")
    assert "review fix vol02 --dataset tubes --label" in refused.value.remedy


def test_a_fix_brings_its_own_file_and_leaves_the_original_alone(
    bench: Bench, tmp_path: Path
) -> None:
    bench.profile()
    _, mask = tube((24, 28, 7), seed=2)
    before = (bench.root / "labels" / "vol02.nii.gz").read_bytes()
    bench.decide("fix", "vol02", label=write_nifti(tmp_path / "new.nii", mask))
    reviewed, measured = bench.profile()
    assert "vol02" in {volume.case for volume in measured.stats}
    assert reviewed.in_force["vol02"]["label"]
    assert (bench.root / "labels" / "vol02.nii.gz").read_bytes() == before
    assert bench.waiting() == ["vol01"]
    with pytest.raises(DataError, match="shape"):
        bench.decide("fix", "vol02", image=write_nifti(tmp_path / "odd.nii", mask[:5]))


def test_a_fix_that_mends_nothing_is_asked_about_again(bench: Bench, tmp_path: Path) -> None:
    bench.profile()
    flat = write_nifti(tmp_path / "flat.nii", np.full((24, 26, 6), 8, np.uint16))
    bench.decide("fix", "vol01", image=flat)
    assert bench.waiting() == ["vol02"]
    bench.profile()
    assert bench.waiting() == ["vol01", "vol02"]


def test_a_decision_is_about_the_bytes_that_were_looked_at(bench: Bench) -> None:
    bench.profile()
    bench.decide("accept", "vol01")
    old = (bench.root / "images" / "vol01.nii.gz").read_bytes()
    write_nifti(bench.root / "images" / "vol01.nii.gz", np.full((24, 26, 6), 9, np.uint16))
    reviewed, _ = bench.profile()
    assert reviewed.in_force == {}
    assert "vol01" in bench.waiting()
    (bench.root / "images" / "vol01.nii.gz").write_bytes(old)
    assert bench.profile()[0].in_force == {"vol01": {"verdict": "accept"}}


def test_a_reopened_volume_is_as_if_nothing_was_decided_but_the_history_stays(bench: Bench) -> None:
    bench.profile()
    bench.decide("accept", "vol01")
    bench.decide("reopen", "vol01")
    assert bench.profile()[0].in_force == {}
    made = queue.find(bench.home, "tubes", "vol01").decisions
    assert [decision.verdict for decision in made] == ["accept", "reopen"]


def test_decisions_cannot_be_changed_or_removed(bench: Bench) -> None:
    bench.profile()
    bench.decide("reject", "vol01")
    with sqlite3.connect(bench.home.review_db) as database:
        for statement in ("update decisions set who = 'Eve'", "delete from decisions"):
            with pytest.raises(sqlite3.IntegrityError, match="for good"):
                database.execute(statement)


def test_a_decision_needs_its_reason(bench: Bench) -> None:
    bench.profile()
    with pytest.raises(DataError, match="reason"):
        deciding.decide(
            bench.home, queue.find(bench.home, "tubes", "vol01"), "reject", who=None, why=" "
        )


def test_a_volume_that_is_gone_waits_no_more_and_unchanged_ones_add_no_row(bench: Bench) -> None:
    bench.profile()
    with sqlite3.connect(bench.home.review_db) as database:
        rows = database.execute("select count(*) from seen").fetchone()
    bench.profile()
    with sqlite3.connect(bench.home.review_db) as database:
        assert database.execute("select count(*) from seen").fetchone() == rows
    for folder in ("images", "labels"):
        (bench.root / folder / "vol02.nii.gz").unlink()
    bench.profile()
    assert bench.waiting() == ["vol01"]


def test_rejecting_everything_says_how_to_go_back(bench: Bench) -> None:
    bench.profile()
    for case in ("vol00", "vol01", "vol02", "vol03"):
        bench.decide("reject", case)
    with pytest.raises(DataError, match="rejected all of 4 volumes") as refused:
        bench.profile()
    assert "review reopen" in refused.value.remedy
