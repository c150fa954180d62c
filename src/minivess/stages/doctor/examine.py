"""Carry out all checks; checks.toml says why each one matters and what helps."""

from __future__ import annotations

import sqlite3
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from minivess.errors import MinivessError
from minivess.stages.doctor import folders, machine, stores
from minivess.stages.doctor.surroundings import Answer, State, Surroundings

TEXTS: dict[str, dict[str, str]] = tomllib.loads(
    Path(__file__).with_name("checks.toml").read_text(encoding="utf-8")
)
CHECKS: dict[str, Callable[[Surroundings], Answer]] = {
    **machine.CHECKS, **folders.CHECKS, **stores.CHECKS,
}  # fmt: skip


class Result(NamedTuple):
    """What a check found, why it matters, and what helps."""

    code: str
    state: State
    found: str
    why: str
    remedy: str
    settles: bool
    """Whether `minivess settle` is what helps, which changes nothing but records."""


def examine(around: Surroundings) -> Iterator[Result]:
    """Carry out each check; one that cannot be carried out is an error of its own."""
    for code, check in CHECKS.items():
        texts = TEXTS[code]
        remedy = texts["remedy"]
        try:
            state, found = check(around)
        except MinivessError as error:
            state, found, remedy = "error", error.problem, error.remedy
        except (OSError, sqlite3.Error) as error:
            state, found = "error", f"{type(error).__name__}: {error}"
        yield Result(code, state, found, texts["why"], remedy, remedy.startswith("minivess settle"))
