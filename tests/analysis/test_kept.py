from __future__ import annotations

import os

import numpy as np
import pytest

from minivess import inference
from minivess.analysis.kept import KeptProbabilities
from minivess.combination import pack, unpack

RNG = np.random.default_rng(0)


def probabilities(classes=2, side=8):
    logits = RNG.normal(0, 1, (classes, side, side, 5)).astype(np.float32)
    return inference.probabilities(logits)


def never():
    pytest.fail("a volume was predicted again")


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_packing_changes_no_mask_and_no_probability_by_more_than_its_steps(classes):
    said = probabilities(classes, side=24)
    packed = unpack(pack(said))
    np.testing.assert_array_equal(inference.mask(packed), inference.mask(said))
    assert np.abs(packed - said).max() <= 1.5 / 255


def test_what_is_kept_is_not_predicted_again_and_is_the_same(tmp_path):
    kept, said = KeptProbabilities(tmp_path, 10**6), probabilities()
    first = kept.get("a", lambda: said)
    np.testing.assert_array_equal(kept.get("a", never), first)
    np.testing.assert_array_equal(first, pack(said))


@pytest.mark.parametrize("damage", [b"", b"no gzip", None])
def test_a_damaged_file_costs_time_and_changes_nothing(tmp_path, damage):
    kept, said = KeptProbabilities(tmp_path, 10**6), probabilities()
    first = kept.get("a", lambda: said)
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    middle = len(content) // 2
    broken = content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]
    path.write_bytes(broken if damage is None else damage)
    np.testing.assert_array_equal(kept.get("a", lambda: said), first)
    np.testing.assert_array_equal(kept.get("a", never), first)


def test_above_the_budget_what_was_used_longest_ago_goes_first(tmp_path):
    kept = KeptProbabilities(tmp_path, 10**6)
    for age, key in enumerate("abc"):
        kept.get(key, probabilities)
        os.utime(tmp_path / f"{key}.npy.gz", (age, age))
    size = max(path.stat().st_size for path in tmp_path.iterdir())
    kept.get("a", never)
    KeptProbabilities(tmp_path, 3 * size).get("d", probabilities)
    assert {path.name[0] for path in tmp_path.iterdir()} == {"a", "c", "d"}


def test_without_a_budget_nothing_stays(tmp_path):
    KeptProbabilities(tmp_path, 0).get("a", probabilities)
    assert not list(tmp_path.iterdir())
