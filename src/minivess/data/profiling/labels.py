"""Checks of label values: whether they are class numbers, or need a setting."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import count

import numpy as np

from minivess.contracts import IGNORED, Finding, LabelMap, VolumeStats
from minivess.data.checks import finding
from minivess.formats.decode import Array, Volume
from minivess.text import several, some

LARGE_VALUE, MANY_CLASSES = 64, 64
SEVERAL = 5  # so many values may as well number objects
LARGEST_CLASS_NUMBER = 1 << 16  # atlases number up to some ten thousands; beyond it are ids
SHOWN = 8
BINARY = "data.label_map=binary"
PATTERN = "data.label='<pattern of the label files>'"

Foreground = Sequence[frozenset[int]]


def check_label(
    volume: Volume, label: Volume, classes: Array, *, ignores: bool
) -> Iterator[Finding]:
    """Check one label; `classes` (X, Y, Z) is what the label map makes of it."""
    if ignores and (classes == IGNORED).all():
        problem = "Every voxel of the label is ignored, so nothing is annotated."
        yield finding("label_values", problem, remedy="annotate a part of it, or remove it")
    elif not ((classes != 0) & (classes != IGNORED) if ignores else classes).any():
        yield finding("empty_label", "The label holds no foreground.")
    if np.array_equal(volume.array, label.array):
        yield finding("label_is_image", "The label holds the very voxels of its image.")
    if label.array.dtype.kind == "f" and (label.array != np.rint(label.array)).any():
        yield finding("label_rounded", "The label holds fractions that are whole within 0.001.")


def check_labels(stats: Sequence[VolumeStats], label_map: LabelMap) -> Iterator[Finding]:
    """Check the labels of a dataset against each other and against the settings."""
    if not stats:
        return
    sets = [frozenset(volume.label_values) - {0} for volume in stats]
    if not any(sets):
        what = several(len(stats), "label")
        problem = f"None of {what} holds any foreground, so there is nothing to learn."
        remedy = f"{PATTERN}, and look at data.label_map if it is set"
        yield finding("empty_label", problem, severity="error", remedy=remedy)
        return
    yield from _meaning(stats, sets, label_map)
    yield from _rare(stats, sets)
    yield from _mostly_foreground(stats, label_map)
    for old in label_map:
        if not any(old in volume.mapped for volume in stats):
            name = "data.ignore_label" if label_map[old] == IGNORED else "data.label_map"
            problem = f"{name} names the value {old}, which no label holds."
            yield finding("label_map_unused", problem)


def check_ignored(ignored: int | None, label_map: LabelMap) -> Iterator[Finding]:
    """Ask for a setting for the value that `dataset.json` calls ignore."""
    if ignored is not None and ignored not in label_map:
        problem = f"dataset.json calls the label {ignored} ignore: these voxels were not annotated."
        remedy = f"data.ignore_label={ignored}, or data.label_map.{ignored}=1 if it is class 1"
        yield finding("label_values", problem, remedy=remedy)


# --- class numbers, or what else ----------------------------------------------------------


def _meaning(
    stats: Sequence[VolumeStats], sets: Foreground, label_map: LabelMap
) -> Iterator[Finding]:
    values = sorted(frozenset().union(*sets))
    stated = any(new != IGNORED for new in label_map.values())
    without = not any(0 in volume.label_values for volume in stats)
    background = _background(stats)
    shown = some(values if without else [0, *values], SHOWN)
    accepted = stated and values[0] > 0 and values[-1] < IGNORED
    if without and len(values) == 1:
        problem, remedy = f"Every voxel of every label has the value {shown}.", PATTERN
    elif without and len(values) >= SEVERAL:
        words = _words({values[0] if background is None else background: 0}, label_map)
        problem = (
            f"Labels hold {len(values)} different values ({shown}), and none is 0, background."
        )
        remedy = (
            f"{words} if that is background and the others are classes, {BINARY} {words} if they "
            f"number objects, {PATTERN} if an image was taken for a label"
        )
    elif len(values) > MANY_CLASSES and not accepted:
        problem = f"Labels hold {len(values)} different values ({shown})."
        remedy = (
            f"{BINARY} if they number objects, {PATTERN} if an image was taken for a label; masks "
            "with soft edges need a threshold first"
        )
    elif are_object_numbers(sets) and not accepted:
        problem = (
            f"Labels number their objects rather than name classes: up to {max(map(len, sets))} "
            f"values in a volume, {len(values)} in all ({shown})."
        )
        same = f", or data.label_map.{values[0]}={values[0]} if they are classes"
        remedy = BINARY + (same if values[-1] < IGNORED else "")
    elif mapping := proposed_map([volume.label_values for volume in stats], background):
        problem = f"Labels hold the values {shown}, which are no class numbers 0, 1, 2, ..."
        remedy = _remedy(mapping, sets, _words(mapping, label_map))
    else:
        yield from () if stated else _doubtful(sets, values)
        return
    yield finding("label_values", problem, remedy=remedy)


def are_object_numbers(sets: Foreground) -> bool:
    """Whether values number objects: from 1 to another n in each volume, or ids of their own."""
    full = [values for values in sets if values]
    if len(full) < 2:
        return False
    sizes = {len(values) for values in full}
    if all(values == frozenset(range(1, len(values) + 1)) for values in full):
        return max(sizes) >= SEVERAL and len(sizes) >= min(3, len(full))
    held = Counter(value for values in full for value in values)
    own = sum(times == 1 for times in held.values())
    return len(held) >= (SEVERAL if max(sizes) > 1 else 3) and 2 * own > len(held)


def proposed_map(sets: Sequence[Sequence[int]], background: int | None = None) -> Mapping[int, int]:
    """Return a map from label values to class numbers; empty if they are class numbers.

    0, 1, 2, 4 are classes. One foreground value other than 1, large isolated values, negative
    values, and a set without background are not. Values that never share a volume with classes,
    255 in some and 254 in others, count within their volume. `background` is the value that most
    voxels of a set without 0 hold.
    """
    held = {frozenset(values) - {0} for values in sets} - {frozenset()}
    foreground = sorted(frozenset().union(*held))
    if not any(0 in values for values in sets):
        lowest = foreground[0] if background is None else background
        return {lowest: 0} | {v: i for i, v in enumerate((f for f in foreground if f != lowest), 1)}
    if len(foreground) == 1:
        return {} if foreground == [1] else {foreground[0]: 1}
    odd = {v for v in foreground if v < 0 or v >= IGNORED}
    if foreground[-1] >= LARGE_VALUE and len(foreground) < foreground[-1] / 8:
        odd |= {v for v in foreground if v >= LARGE_VALUE}
    kept = [value for value in foreground if value not in odd]
    together = any(odd & values and values - odd for values in held)
    if together or min(odd, default=0) < 0:
        last = max([0, *kept])
        start = 1 + (last if last + len(odd) < IGNORED else 0)
        free = (number for number in count(start) if number not in kept)
        return {old: 0 if old < 0 else next(free) for old in sorted(odd)}
    ranks: dict[int, int] = {}
    for group in sorted(held, key=len, reverse=True):
        for rank, value in enumerate(sorted(group), start=1):
            if value in odd:
                ranks.setdefault(value, rank)
    return ranks


def _words(mapping: Mapping[int, int], label_map: LabelMap) -> str:
    """Return the settings that apply a map to the values of files, after the current label map."""
    words = []
    for value, new in sorted(mapping.items()):
        keys = [old for old, now in label_map.items() if now == value]
        own = [] if value in label_map or (value and "*" in label_map) else [value]
        words += [f"data.label_map.{old}={new}" for old in (*keys, *own)]
    return " ".join(f"'{word}'" if "*" in word else word for word in words)


def _remedy(mapping: Mapping[int, int], sets: Foreground, words: str) -> str:
    """Return the settings that apply a map, and what else the values may mean."""
    odd = next(iter(mapping))
    if len(mapping) == 1 and any(odd in held and len(held) > 1 for held in sets):
        what = "background" if mapping[odd] == 0 else "a class"
        ignored = f"data.ignore_label={odd} if these voxels were not annotated"
        return f"{ignored}, {words} if it is {what}"
    ids = max(mapping) > LARGEST_CLASS_NUMBER
    return f"{words}, or {BINARY} if they number objects" if ids else words


def _background(stats: Sequence[VolumeStats]) -> int | None:
    """Return the most frequent value of every volume, if all agree."""
    found = {volume.commonest for volume in stats} - {0}
    return found.pop() if len(found) == 1 else None


def _doubtful(sets: Foreground, values: Sequence[int]) -> Iterator[Finding]:
    """Find values that may be class numbers or something else."""
    shown = some(values, SHOWN)
    if len(values) > 1 and all(len(held) < 2 for held in sets):
        problem = f"No label holds two of the classes {shown}: they may be one class."
        words = _words(dict.fromkeys(values[1:], values[0]), {})
        yield finding("label_meaning", problem, remedy=f"{words} if they are")
    elif len(values) >= SEVERAL:
        problem = f"Labels hold {several(len(values), 'class')} ({shown})."
        yield finding("label_meaning", problem, remedy=f"{BINARY} if they number objects")


# --- classes and volumes ------------------------------------------------------------------


def _rare(stats: Sequence[VolumeStats], sets: Foreground) -> Iterator[Finding]:
    """Find classes that occur in one volume only."""
    held = Counter(value for values in sets for value in values)
    rare = sorted(value for value, times in held.items() if times == 1)
    if rare and len(stats) > 1:
        cases = (v.case for v, values in zip(stats, sets, strict=True) if values & set(rare))
        named = f"Class {rare[0]}" if len(rare) == 1 else f"Each of the classes {rare}"
        yield finding("rare_class", f"{named} occurs in one volume only ({', '.join(cases)}).")


def _mostly_foreground(stats: Sequence[VolumeStats], label_map: LabelMap) -> Iterator[Finding]:
    for value in sorted({volume.commonest for volume in stats} - {0}):
        cases = [volume.case for volume in stats if volume.commonest == value]
        problem = (
            f"In {len(cases)} of {len(stats)} labels ({some(cases, 3)}) foreground fills more than "
            f"half, most of it with the value {value}."
        )
        if len(cases) < len(stats):
            remedy = "correct these files if foreground and background are swapped there"
        elif all(set(volume.label_values) <= {0, 1} for volume in stats):
            remedy = f"{_words({0: 1, 1: 0}, label_map)} if foreground and background are swapped"
        else:
            words = _words({value: 0}, label_map)
            remedy = (
                f"data.ignore_label={value} if these voxels were not annotated, {words} if they "
                "are background"
            )
        yield finding("much_foreground", problem, remedy=remedy)
