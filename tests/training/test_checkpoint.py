"""Checkpoints, whole or absent."""

from __future__ import annotations

import pickle

import pytest
import torch

from minivess.training import checkpoint


def state(number: int) -> checkpoint.Stored:
    return {"epoch": number, "weights": {"w": torch.full((100,), float(number))}, "best": {}}


@pytest.fixture
def twice(tmp_path):
    """Two epochs saved one after the other."""
    path = tmp_path / "last.pth"
    for number in (1, 2):
        checkpoint.save(path, state(number), keep_previous=True)
    return path


def test_what_is_saved_comes_back(twice):
    found = checkpoint.load(twice)
    assert found["epoch"] == 2
    assert torch.equal(found["weights"]["w"], state(2)["weights"]["w"])


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "gone"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(twice, damage):
    data = bytearray(twice.read_bytes())
    data[data.index(state(2)["weights"]["w"].numpy().tobytes()) + 10] ^= 1
    new = {"flip": data, "cut": data[: len(data) // 2], "empty": b""}
    twice.unlink() if damage == "gone" else twice.write_bytes(new[damage])
    assert checkpoint.load(twice)["epoch"] == 1


def test_without_any_whole_checkpoint_there_is_none(twice):
    twice.write_bytes(b"PK")
    checkpoint.previous(twice).write_bytes(b"")
    assert checkpoint.load(twice) is None


def test_the_one_before_is_kept_only_where_that_is_asked(tmp_path):
    for number in (1, 2):
        checkpoint.save(tmp_path / "best.pth", state(number))
    assert [path.name for path in tmp_path.iterdir()] == ["best.pth"]


def test_a_file_that_would_run_code_is_not_loaded(tmp_path):
    torch.save({"epoch": tmp_path}, tmp_path / "last.pth")
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        checkpoint.load(tmp_path / "last.pth")


def test_a_write_that_fails_leaves_the_old_checkpoint(twice):
    with pytest.raises(AttributeError):
        checkpoint.save(twice, {"local": lambda: None}, keep_previous=True)
    assert checkpoint.load(twice)["epoch"] == 2
    assert len(list(twice.parent.iterdir())) == 2
