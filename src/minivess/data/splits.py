"""Splits into folds and a test set; groups are never split."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations, pairwise
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field, TypeAdapter

from minivess import keys
from minivess.contracts import Fold, Split
from minivess.data import json_file
from minivess.errors import DataError
from minivess.text import some

Unit = tuple[str, ...]  # volumes that stay together: a group, or a single volume


class _Sides(BaseModel):
    train: tuple[str, ...]
    val: tuple[str, ...]


FORM: TypeAdapter[Split | list[_Sides]] = TypeAdapter(
    Split | Annotated[list[_Sides], Field(min_length=1)]
)


def make(
    ids: Iterable[str],
    groups: Mapping[str, str | None],
    *,
    folds: int,
    seed: int,
    test_fraction: float = 0.0,
    foreground: Mapping[str, float] | None = None,
) -> Split:
    """Cut volumes into folds of nearly equal size, after setting the test volumes aside.

    The same ids, groups and seed give the same split, whatever the order of `ids`. The test set
    is that of every seed, or one seed would choose by what another holds out.

    Args:
        groups: case -> group, or None; the volumes of a group are never separated.
        folds: number of folds; with fewer volumes or groups there are fewer, and a note.
        test_fraction: share of all volumes, from 0 to 1, that is held out of every fold.
        foreground: case -> share of foreground; test set and folds then get sparse and dense
            volumes alike.

    Raises:
        DataError: fewer than two volumes, or than two groups, are left to cut.
    """
    units = _units(ids, groups)
    grouped = any(groups.get(case) is not None for unit in units for case in unit)
    drawn = _shuffled(units, "test")
    rest, test = _hold_out(_spread(drawn, foreground, test_fraction), test_fraction)
    if len(rest) < 2:
        raise _too_few(units, grouped, test_fraction)
    count = min(folds, len(rest))
    parts = _parts(_shuffled(rest, f"{seed}-folds"), count, foreground)
    everything = {case for unit in rest for case in unit}
    return Split(
        seed=seed,
        grouped=grouped,
        folds=tuple(
            Fold(index=index, train=tuple(sorted(everything - set(part))), val=part)
            for index, part in enumerate(parts)
        ),
        test=test,
        notes=tuple(_notes(parts, asked=folds, grouped=grouped, test=(test, test_fraction))),
    )


def read(path: Path, ids: Iterable[str], groups: Mapping[str, str | None]) -> Split:
    """Read a split made elsewhere: our own JSON, or nnU-Net's list of {"train": [], "val": []}.

    It is used as it is; a note names each group that stands on two sides of it.

    Raises:
        DataError: no such file, another form, a volume that is not there or stands on two sides.
    """
    remedy = 'write [{"train": ["case1"], "val": ["case2"]}, ...], one entry for each fold'
    split = json_file.read(path, FORM, what="split file", remedy=remedy)
    if isinstance(split, list):
        folds = (Fold(index=i, train=one.train, val=one.val) for i, one in enumerate(split))
        split = Split(seed=0, grouped=False, folds=tuple(folds))
    known = set(ids)
    _check(path, split, known)
    torn = tuple(_torn(split, groups))
    grouped = not torn and any(groups.get(case) is not None for case in known)
    return split.replace(grouped=grouped, notes=tuple(dict.fromkeys((*split.notes, *torn))))


# --- making -------------------------------------------------------------------------------


def _units(ids: Iterable[str], groups: Mapping[str, str | None]) -> list[Unit]:
    together: dict[tuple[str, str], list[str]] = defaultdict(list)
    for case in sorted(set(ids)):
        group = groups.get(case)
        together[("volume", case) if group is None else ("group", group)].append(case)
    return [tuple(cases) for _, cases in sorted(together.items())]


def _shuffled(units: Sequence[Unit], seed: str) -> list[Unit]:
    order = sorted(units)
    random.Random(seed).shuffle(order)
    return order


def _hold_out(units: list[Unit], fraction: float) -> tuple[list[Unit], tuple[str, ...]]:
    """Take whole units until the fraction is nearest; at least one where a fraction is asked."""
    wanted = fraction * sum(len(unit) for unit in units)
    taken: list[Unit] = []
    size = 0
    for unit in units if fraction > 0 else ():
        if not taken or abs(size + len(unit) - wanted) < abs(size - wanted):
            taken.append(unit)
            size += len(unit)
    chosen = set(taken)
    rest = [unit for unit in units if unit not in chosen]
    return rest, tuple(sorted(case for unit in taken for case in unit))


def _spread(
    units: list[Unit], foreground: Mapping[str, float] | None, fraction: float
) -> list[Unit]:
    """Order units so that the first ones, the share to hold out, cover all foreground densities."""
    if foreground is None or fraction == 0:
        return units
    ordered = _by_density(units, foreground)
    wanted = max(1, round(fraction * len(units)))
    bounds = [len(units) * turn // wanted for turn in range(wanted + 1)]
    # The shuffle decides which unit of each stretch of similar density is taken.
    first = [min(ordered[start:stop], key=units.index) for start, stop in pairwise(bounds)]
    return first + [unit for unit in units if unit not in first]


def _by_density(units: list[Unit], foreground: Mapping[str, float]) -> list[Unit]:
    return sorted(units, key=lambda unit: sum(foreground[case] for case in unit) / len(unit))


def _parts(
    units: list[Unit], count: int, foreground: Mapping[str, float] | None
) -> list[tuple[str, ...]]:
    """Distribute units, largest first, each to the smallest part: sizes differ little.

    With densities, units of similar density are dealt together, at most one of them to each part.
    """
    parts: list[list[str]] = [[] for _ in range(count)]
    if foreground is None:
        for unit in sorted(units, key=len, reverse=True):
            min(parts, key=len).extend(unit)
    else:
        ordered = _by_density(units, foreground)
        for start in range(0, len(ordered), count):
            # The shuffle decides among units of one size.
            layer = sorted(ordered[start : start + count], key=units.index)
            layer.sort(key=len, reverse=True)
            for unit, part in zip(layer, sorted(parts, key=len), strict=False):
                part.extend(unit)
    return [tuple(sorted(part)) for part in parts]


def _notes(
    parts: list[tuple[str, ...]], *, asked: int, grouped: bool, test: tuple[tuple[str, ...], float]
) -> list[str]:
    notes = []
    what = "groups" if grouped else "volumes"
    if len(parts) < asked:
        notes.append(
            f"{asked} folds were asked for, but only {len(parts)} {what} can be cut apart: "
            f"{len(parts)} folds are used. All figures rest on {len(parts)} independent {what}; "
            "confidence intervals will be wide, and below 5 there are none."
        )
    total = sum(len(part) for part in parts)
    if len(parts) == asked and total < 10:
        notes.append(
            f"Only {total} volumes are validated over all folds: confidence intervals will be wide."
        )
    held, fraction = test
    share = len(held) / (total + len(held))
    if fraction > 0 and abs(share - fraction) > 0.1:
        notes.append(
            f"{share:.0%} of the volumes are held out instead of {fraction:.0%}: {what} stay whole."
        )
    return notes


def _too_few(units: list[Unit], grouped: bool, test_fraction: float) -> DataError:
    total = sum(len(unit) for unit in units)
    if total >= 2 and grouped and len(units) < 2:
        return DataError(
            f"All {total} volumes belong to one group, so none can validate another.",
            remedy="add a volume of another group, or leave data.group out if they are independent",
        )
    if test_fraction > 0 and len(units) >= 2:
        return DataError(
            f"Of {len(units)} volumes or groups fewer than two are left to train and validate "
            f"after holding out {test_fraction:.0%}.",
            remedy="training.test_fraction=0",
        )
    return DataError(
        f"Training and validation need at least two volumes; {total} can be used.",
        remedy="add volumes to data.root; the findings of the profile say why others were left out",
    )


# --- reading ------------------------------------------------------------------------------


def _check(path: Path, split: Split, ids: set[str]) -> None:
    for fold in split.folds:
        sides = {"train": set(fold.train), "val": set(fold.val), "test": set(split.test)}
        unknown = sorted(set().union(*sides.values()) - ids)
        if unknown:
            raise DataError(
                f"The split file {path} names {unknown[0]} (fold {fold.index}), which is not among "
                f"the {len(ids)} usable volumes ({some(sorted(ids), 3)}).",
                remedy="correct the name in the file, or correct the volume if it was quarantined",
            )
        for one, other in combinations(sides, 2):
            both = sorted(sides[one] & sides[other])
            if both:
                raise DataError(
                    f"The split file {path} has {both[0]} in both {one} and {other} of fold "
                    f"{fold.index}.",
                    remedy="let each volume stand on one side",
                )
        if not fold.train or not fold.val:
            raise DataError(
                f"Fold {fold.index} of {path} trains on {len(fold.train)} and validates on "
                f"{len(fold.val)} volumes.",
                remedy="give each fold at least one volume on both sides",
            )


def _torn(split: Split, groups: Mapping[str, str | None]) -> Iterator[str]:
    for fold in split.folds:
        sides = {"trained": fold.train, "validated": fold.val, "tested": split.test}
        held = {
            what: {groups.get(case): case for case in sorted(cases, reverse=True)}
            for what, cases in sides.items()
        }
        for one, other in combinations(held, 2):
            both = sorted(held[one].keys() & held[other].keys() - {None}, key=str)
            if both:
                first, more = both[0], f" and {len(both) - 1} more" if len(both) > 1 else ""
                yield (
                    f"Groups both {one} and {other} on in fold {fold.index}: {first} "
                    f"({held[one][first]}, {held[other][first]}){more}; scores may be too good."
                )


def unlearnt(split: Split, classes: Mapping[str, Iterable[int]]) -> tuple[str, ...]:
    """Return a note for each fold whose training volumes lack a class of the dataset."""
    everywhere = set().union(*classes.values()) - {0}
    notes = []
    for fold in split.folds:
        trained = set().union(*(classes[case] for case in fold.train))
        if lacking := sorted(everywhere - trained):
            named = ", ".join(map(str, lacking))
            notes.append(
                f"No training volume of fold {fold.index} holds class {named}: its network cannot "
                "learn it, and its scores on volumes that hold it say so."
            )
    return tuple(notes)


def split_hash(split: Split) -> str:
    """Return a content hash of folds and test set."""
    return keys.digest([split.model_dump(mode="json", include={"folds", "test"})])
