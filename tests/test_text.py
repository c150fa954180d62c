"""Words and figures for people."""

from __future__ import annotations

import pytest

from minivess.text import several, three_decimals


@pytest.mark.parametrize(("number", "words", "text"), [
    (1, ("family",), "1 family"),
    (2, ("family",), "2 families"),
    (0, ("run",), "0 runs"),
    (2, ("class",), "2 classes"),
    (1, ("run", "wait"), "1 run waits"),
    (2, ("run", "wait"), "2 runs wait"),
    (1, ("file", "are"), "1 file is"),
])  # fmt: skip
def test_a_number_and_its_noun_agree(number: int, words: tuple[str, ...], text: str) -> None:
    assert several(number, *words) == text


def test_what_is_rounded_to_nothing_has_no_minus() -> None:
    assert [three_decimals(value) for value in (-0.0004, -0.0006, 0.0)] == [
        "0.000",
        "-0.001",
        "0.000",
    ]
    assert three_decimals(-0.0001, "+") == "+0.000"
