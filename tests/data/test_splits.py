"""Folds are disjoint, complete and repeatable, and a group never straddles them."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minivess.data.splits import make, read, unlearnt
from minivess.errors import DataError

IDS = [f"v{index}" for index in range(12)]


@given(
    groups=st.lists(st.sampled_from([None, "A", "B", "C", "D"]), min_size=4, max_size=24),
    folds=st.integers(2, 6),
    seed=st.integers(0, 99),
    test_fraction=st.sampled_from([0.0, 0.2]),
)
@settings(max_examples=100, deadline=None)
def test_every_volume_validates_once_and_no_group_is_split(
    groups, folds, seed, test_fraction
) -> None:
    of = {f"v{index}": group for index, group in enumerate(groups)}
    try:
        split = make(of, of, folds=folds, seed=seed, test_fraction=test_fraction)
    except DataError:  # too few units to cut; tested below
        return
    validated = sorted(case for fold in split.folds for case in fold.val)
    assert sorted([*validated, *split.test]) == sorted(of)
    for fold in split.folds:
        assert fold.train
        assert fold.val
        sides = [set(fold.train), set(fold.val), set(split.test)]
        assert sum(map(len, sides)) == len(set.union(*sides)) == len(of)
        named = [{of[case] for case in side} - {None} for side in sides]
        assert sum(map(len, named)) == len(set.union(*named))


def test_the_order_of_volumes_does_not_matter_and_the_seed_does() -> None:
    one = make(IDS, {}, folds=3, seed=1)
    assert one == make(IDS[::-1], {}, folds=3, seed=1)
    assert one.folds != make(IDS, {}, folds=3, seed=2).folds


def test_folds_differ_by_one_volume_at_most() -> None:
    sizes = [len(fold.val) for fold in make(IDS[:11], {}, folds=3, seed=0).folds]
    assert sorted(sizes) == [3, 4, 4]


def test_large_groups_are_spread_evenly() -> None:
    of = dict(zip(IDS, "AAAABBBBCDDD", strict=True))
    sizes = [len(fold.val) for fold in make(IDS, of, folds=3, seed=0).folds]
    assert sizes == [4, 4, 4]


def test_fewer_volumes_than_folds_shrink_the_folds_and_say_what_that_means() -> None:
    split = make(IDS[:3], {}, folds=5, seed=0)
    assert len(split.folds) == 3
    (note,) = split.notes
    assert "intervals" in note


def test_few_volumes_and_a_test_set_of_another_share_than_asked_are_said() -> None:
    assert make(IDS, {}, folds=3, seed=0, test_fraction=0.25).notes == (
        "Only 9 volumes are validated over all folds: confidence intervals will be wide.",
    )
    assert make(IDS[:10], {}, folds=3, seed=0).notes == ()
    of = {f"{group}{k}": group for group in "ABC" for k in range(8)}
    (note,) = make(of, of, folds=2, seed=0, test_fraction=0.1).notes
    assert note == "33% of the volumes are held out instead of 10%: groups stay whole."


def test_of_two_test_sets_equally_near_to_the_share_asked_the_smaller_is_taken() -> None:
    assert len(make(IDS[:10], {}, folds=3, seed=0, test_fraction=0.25).test) == 2


def test_fewer_groups_than_folds_shrink_the_folds() -> None:
    split = make(IDS, dict.fromkeys(IDS[:6], "A") | dict.fromkeys(IDS[6:], "B"), folds=3, seed=0)
    assert len(split.folds) == 2
    assert "groups" in split.notes[0]


@pytest.mark.parametrize(
    ("ids", "groups", "test_fraction", "message"),
    [
        (["a"], {}, 0.0, "at least two"),
        ([], {}, 0.0, "at least two"),
        (["a"], {}, 0.5, "at least two"),
        (["a", "b"], {"a": "G", "b": "G"}, 0.0, "one group"),
        (["a", "b"], {}, 0.5, "holding out"),
    ],
)
def test_what_cannot_be_cut_is_refused(ids, groups, test_fraction, message) -> None:
    with pytest.raises(DataError, match=message):
        make(ids, groups, folds=3, seed=0, test_fraction=test_fraction)


def test_every_seed_holds_the_same_volumes_out() -> None:
    one, other = (make(IDS, {}, folds=3, seed=seed, test_fraction=0.25) for seed in (1, 2))
    assert one.test == other.test
    assert one.folds != other.folds


def test_a_test_set_is_held_out_of_every_fold() -> None:
    split = make(IDS, {}, folds=3, seed=0, test_fraction=0.25)
    assert len(split.test) == 3
    assert all(not set(split.test) & {*fold.train, *fold.val} for fold in split.folds)


def test_a_saved_split_is_read_back_as_it_was(tmp_path: Path) -> None:
    split = make(IDS, {}, folds=3, seed=5, test_fraction=0.2)
    (tmp_path / "split.json").write_text(split.model_dump_json())
    assert read(tmp_path / "split.json", IDS, {}) == split


def test_a_list_of_folds_made_elsewhere_is_read(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(json.dumps([{"train": ["v0", "v1"], "val": ["v2"]}]))
    split = read(tmp_path / "s.json", IDS, {})
    assert (split.seed, split.folds[0].val) == (0, ("v2",))


def test_a_given_split_is_used_as_it_is_and_says_which_groups_it_separates(tmp_path: Path) -> None:
    folds = [{"train": ["v0", "v1"], "val": ["v2"]}, {"train": ["v1", "v2"], "val": ["v0"]}]
    (tmp_path / "s.json").write_text(json.dumps(folds))
    apart = read(tmp_path / "s.json", IDS, {"v0": "mouse 1", "v1": "mouse 1", "v2": "mouse 2"})
    assert not apart.grouped
    (note,) = apart.notes
    assert note.startswith("Groups both trained and validated on in fold 1: mouse 1 (v1, v0);")
    whole = read(tmp_path / "s.json", IDS, {"v0": "a", "v1": "b", "v2": "c"})
    assert (whole.grouped, whole.notes) == (True, ())
    assert whole.folds == apart.folds


BAD = {
    "unknown volume": ('[{"train": ["v0"], "val": ["zz"]}]', "zz"),
    "leak": ('[{"train": ["v0", "v1"], "val": ["v1"]}]', "both train and val"),
    "empty side": ('[{"train": ["v0"], "val": []}]', "validates on 0"),
    "other form": ('[{"training": ["v0"]}]', "form"),
    "no json": ("train: v0", "form"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_split_file_is_refused_by_name(tmp_path: Path, what: str) -> None:
    content, message = BAD[what]
    (tmp_path / "s.json").write_text(content)
    with pytest.raises(DataError, match=message):
        read(tmp_path / "s.json", IDS, {})


def test_a_missing_split_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.json"):
        read(tmp_path / "gone.json", IDS, {})


# --- foreground ---------------------------------------------------------------------------

DENSITIES = {f"v{index:02d}": index / 20 for index in range(20)}


def spread(parts) -> float:
    """How far apart the mean densities of some parts are."""
    means = [sum(DENSITIES[case] for case in part) / len(part) for part in parts]
    return max(means) - min(means)


@given(st.integers(0, 200))
def test_stratified_folds_are_as_dense_as_each_other(seed: int):
    split = make(DENSITIES, {}, folds=4, seed=seed, foreground=DENSITIES)
    # Of four neighbours each fold has one, so two folds differ by three steps at most.
    assert spread([fold.val for fold in split.folds]) <= 0.15
    assert {len(fold.val) for fold in split.folds} == {5}


@given(st.integers(0, 200))
def test_a_stratified_test_set_has_sparse_and_dense_volumes(seed: int):
    # The test set is that of every seed, so which volume is how dense decides what is drawn.
    densities = random.Random(seed).sample(list(DENSITIES.values()), len(DENSITIES))
    of = dict(zip(DENSITIES, densities, strict=True))
    split = make(of, {}, folds=2, seed=0, test_fraction=0.2, foreground=of)
    assert sorted(int(20 * of[case] + 0.5) // 5 for case in split.test) == [0, 1, 2, 3]


def test_stratified_groups_stay_whole():
    groups = {case: f"animal{int(case[1:]) // 3}" for case in DENSITIES}
    split = make(DENSITIES, groups, folds=3, seed=1, foreground=DENSITIES)
    for fold in split.folds:
        assert not {groups[case] for case in fold.val} & {groups[case] for case in fold.train}


def test_seeds_make_other_stratified_folds_and_the_same_seed_the_same():
    first, again, other = (
        make(DENSITIES, {}, folds=4, seed=seed, foreground=DENSITIES) for seed in (1, 1, 2)
    )
    assert first == again
    assert first.folds != other.folds


def test_a_class_that_a_fold_does_not_train_on_is_said() -> None:
    ids = [f"v{index}" for index in range(6)]
    split = make(ids, {}, folds=3, seed=0)
    classes = {case: (0, 1, 3) if case == "v0" else (0, 1) for case in ids}
    (note,) = unlearnt(split, classes)
    (fold,) = (fold for fold in split.folds if "v0" in fold.val)
    assert f"fold {fold.index} holds class 3" in note
    assert unlearnt(split, dict.fromkeys(ids, (0, 1))) == ()
