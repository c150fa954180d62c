"""Which volumes train and validate is as the settings say."""

from __future__ import annotations

import json
from pathlib import Path

from minivess import config
from minivess.contracts import DatasetProfile, Split
from minivess.grid import families
from tests.tracking.conftest import profile_of

SPARSE, DENSE = ("a", "b", "c", "d"), ("e", "f", "g", "h")


def profile() -> DatasetProfile:
    """Four sparse volumes and four dense ones."""
    made = profile_of(SPARSE + DENSE)
    volumes = tuple(
        stats.replace(foreground_ratio=0.3 if stats.case in DENSE else 0.01)
        for stats in made.volumes
    )
    return made.replace(volumes=volumes)


def split(*words: str, seed: int = 1) -> Split:
    return families.split(config.load([], ["data.root=set", *words]), profile(), seed)


def test_folds_are_stratified_by_foreground_only_when_asked() -> None:
    def mixed(made: Split) -> bool:
        return all({case in DENSE for case in fold.val} == {True, False} for fold in made.folds)

    words = ("training.folds=4",)
    assert all(mixed(split(*words, "training.stratify=foreground", seed=n)) for n in range(5))
    assert not all(mixed(split(*words, seed=n)) for n in range(5))


def test_a_test_set_is_held_out_on_request() -> None:
    assert split("training.folds=2").test == ()
    held = split("training.folds=2", "training.test_fraction=0.25")
    assert len(held.test) == 2
    assert all(not {*held.test} & {*fold.train, *fold.val} for fold in held.folds)


def test_given_folds_are_taken_as_they_are(tmp_path: Path) -> None:
    folds = [{"train": ["a", "b"], "val": ["e"]}, {"train": ["e"], "val": ["a", "b"]}]
    file = tmp_path / "splits_final.json"
    file.write_text(json.dumps(folds))
    given = split(f"training.splits={file}")
    assert [(list(f.train), list(f.val)) for f in given.folds] == [
        (["a", "b"], ["e"]), (["e"], ["a", "b"]),
    ]  # fmt: skip
