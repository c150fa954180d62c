"""Groups of volumes that must stay together: one animal, one patient, one slide."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter

from minivess.data import json_file
from minivess.errors import DataError
from minivess.formats.filenames import stem
from minivess.names import GROUPS_FILE
from minivess.text import first_of, several, some

PREFIX = "prefix"
SHOWN = 4
FORM = TypeAdapter(dict[str, Annotated[str, Field(coerce_numbers_to_str=True)]])
SUBJECT = r"(?:^|_)(sub-[A-Za-z0-9]+)"  # BIDS
PREFIXES = [  # m1_left, m1a -> m1; then less and less of the name
    r"^(.+?)(?:[_\-. ][^_\-. ]+|(?<=\d)[A-Za-z]+\d*)?$",
    *(rf"^(.+?)(?:[_\-. ][^_\-. ]+){{0,{parts}}}$" for parts in (2, 3)),
]


def groups_of(root: Path, cases: list[str], rule: str | None) -> tuple[dict[str, str], list[str]]:
    """Return the group of each case, and notes."""
    if rule == PREFIX:
        groups, source = _by_prefix(cases), f"data.group={rule}"
    elif rule is not None and not rule.endswith(".json"):
        groups, source = _by_regex(cases, rule), f"data.group={rule}"
    elif rule is not None or (root / GROUPS_FILE).exists():
        path = _group_file(root, rule)
        groups, source = _by_file(cases, path), str(path if rule else GROUPS_FILE)
    else:
        return {}, _suspicion(cases)
    count = len(set(groups.values()))
    return groups, [
        f"{several(count, 'group')} by {source}: {_members(groups)}. "
        "A group is never split between training and validation."
    ]


def _group_file(root: Path, rule: str | None) -> Path:
    candidates = [Path(rule).expanduser(), root / rule] if rule else [root / GROUPS_FILE]
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        raise DataError(f"There is no group file {rule}.", remedy="data.group=/path/to/groups.json")
    return path


def _by_file(cases: list[str], path: Path) -> dict[str, str]:
    remedy = 'write {"case": "group", ...}, one name for each case'
    content = json_file.read(path, FORM, what="group file", remedy=remedy)
    named = {stem(Path(name)): group for name, group in content.items()}
    named |= {unicodedata.normalize("NFC", name): group for name, group in content.items()}
    return _complete(cases, {c: named[c] for c in cases if c in named}, str(path))


def _by_regex(cases: list[str], rule: str) -> dict[str, str]:
    try:
        expression = re.compile(rule)
    except re.error as error:
        raise DataError(
            f"data.group={rule} is no regular expression: {error}.",
            remedy=r"for example 'data.group=^(mouse\d+)', or a JSON file",
        ) from error
    groups = {case: group for case in cases if (group := _of(expression, case)) is not None}
    return _complete(cases, groups, f"data.group={rule}")


def _complete(cases: list[str], groups: dict[str, str], source: str) -> dict[str, str]:
    missing = [case for case in cases if case not in groups]
    if missing:
        raise DataError(
            f"{source} names no group for {len(missing)} of {several(len(cases), 'volume')}: "
            f"{some(missing, 1)}.",
            remedy="give every volume a group, or leave data.group out",
        )
    return groups


def _by_prefix(cases: list[str]) -> dict[str, str]:
    """The group of each case by the beginning that names share, as the hint shows it."""
    if groups := _shared(cases):
        return groups
    raise DataError(
        f"data.group={PREFIX}, but the names of these {len(cases)} volumes share no beginning that "
        f"makes several groups: {some(cases, 3)}.",
        remedy="a JSON file of case and group, data.group=groups.json, or a regular expression, "
        r"'data.group=^(mouse\d+)'",
    )


def _suspicion(cases: list[str]) -> list[str]:
    """Warn of shared name prefixes: volumes of one subject in several folds are a leak."""
    if not (groups := _shared(cases)):
        return []
    return [
        f"Volumes share the beginnings of their names: {_members(groups)}. If each of "
        "these is one subject, its volumes must not stand in both training and validation: "
        f"data.group={PREFIX} keeps them together."
    ]


def _shared(cases: list[str]) -> dict[str, str]:
    """The beginning of each name, where several names share one; else nothing."""
    subjects = [SUBJECT] if all(re.search(SUBJECT, case) for case in cases) else PREFIXES
    for rule in subjects:
        found = {case: _of(rule, case) or case for case in cases}
        if 1 < len(set(found.values())) < len(cases):
            return found
    return {}


def _members(groups: Mapping[str, str]) -> str:
    """`m1 (m1_left, m1_right), m2 (m2_left)`, the largest groups first."""
    held: dict[str, list[str]] = defaultdict(list)
    for case, group in groups.items():
        held[group].append(case)
    largest = sorted(held.items(), key=lambda one: (-len(one[1]), one[0]))
    return first_of([f"{group} ({first_of(own, SHOWN)})" for group, own in largest], SHOWN)


def _of(rule: str | re.Pattern[str], case: str) -> str | None:
    match = re.search(rule, case)
    return next((part for part in match.groups() if part), match.group()) if match else None
