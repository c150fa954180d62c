"""Folder layouts, each read into images and labels by case name.

Words in folders and names say what is an image and what is a label: imagesTr/ + labelsTr/
(nnU-Net), images/ + labels/, a folder of labels beside any other, derivatives/ (BIDS), and pairs
side by side (vol1_img, vol1_seg). What the words leave of both paths must agree.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from minivess.contracts import Finding
from minivess.data.checks import finding
from minivess.data.pairing.matches import (
    Name,
    Pair,
    Reading,
    by_case_name,
    common_start,
    match_files,
)
from minivess.formats.filenames import stem

IMAGE_FOLDERS = frozenset(
    ("image", "images", "img", "imgs", "raw", "scan", "scans", "volume", "volumes")
)
LABEL_FOLDERS = frozenset(
    re.findall(
        r"\w+",
        "label labels mask masks seg segs segmentation segmentations gt annotation annotations ann "
        "ground truth groundtruth rater expert annotator observer reader",
    )
)
ROLES, SINGLE = IMAGE_FOLDERS | LABEL_FOLDERS, ("image", "img", "scan", "volume")
ONLY = "*"  # the name of an image, or of a label, that has a folder for itself
TRAIN, TEST = "tr", "ts"  # of nnU-Net; imagesTs and labelsTs take no part
SPLITS = {"train": "train", "training": "train", "val": "val", "validation": "val", "valid": "val"}
SPLITS |= {"test": "test", "testing": "test"}
SEPARATORS = "_-. "

_EDGE, _END = r"(?:^|(?<=[_\-. ]))", r"(?=\d*(?:$|[_\-. ]))"
_IMAGE = re.compile(
    rf"{_EDGE}(?P<word>(?:img|image|imaging|im|raw|scan|volume|vol|orig){_END}"
    r"|(?:ct|cta|mr|mri|mra|pet|t1|t2|t1w|t2w|t2s|t1ce|t1c|t1gd|flair|dwi|adc|tof|swi|pd)"
    r"(?=$|[_\-. ]))",
    re.IGNORECASE,
)
_LABEL = re.compile(
    rf"{_EDGE}(?:(?:cp|simple|object|cells?|nuclei|vessels?|lesions?|brain|tumou?r)[_\-. ])*"
    r"(?P<word>d?segs?|segmentations?|labels?|masks?|gt|annotations?|manual|ground[_\-. ]?truth"
    rf"|rater|expert){_END}",
    re.IGNORECASE,
)


class _Place(NamedTuple):
    """The folders of a file, and the role that the folder `at` gives it."""

    folders: tuple[str, ...]
    others: tuple[str, ...]  # the folders without that one
    at: int | None = None
    role: str = ""  # image or label; derived for a derivative (BIDS) that says no more
    rest: tuple[str, ...] = ()  # the other words of the folder's name: imagesTr -> tr


def read_layout(root: Path, found: list[Path]) -> Reading:
    """Pair by the first folder that names a role, by the last one, or by file names alone."""
    readings = []
    for which in (0, -1, None):
        readings.append(_reading(root, found, which))
        if readings[-1].cases:
            return readings[-1]
    return readings[0]


def _reading(root: Path, found: list[Path], which: int | None) -> Reading:
    places = {path: _place(path.relative_to(root).parent.parts, which) for path in found}
    taken = [path for path in found if TEST not in places[path].rest]
    roles = {(places[path].at, places[path].role) for path in taken}
    depths = [
        at for at, role in roles if at is not None and {(at, "image"), (at, "label")} <= roles
    ]
    if depths:  # then nothing else is meant
        taken = [path for path in taken if places[path].at == min(depths)]
    beside = {p.folders[: p.at] for p in places.values() if p.at is not None}
    if any(place.role == "image" for place in places.values()):
        beside = set()  # image folders are named as such
    images = {path: names for path in taken if (names := _as_image(path, places[path], beside))}
    labels = {path: names for path in taken if (names := _as_label(path, places[path]))}

    names = {tuple(_words(f)) for path in images for f in places[path].folders}
    bound = any(places[path].rest in names for path in labels)  # A/ and A_labels/

    def fits(image: Path, label: Path) -> bool:
        both = [_says(places[image], places[label]), places[label].rest]
        parts = [{SPLITS[word] for word in words if word in SPLITS} for words in both]
        if all(parts) and not set.intersection(*parts):
            return False
        if places[image].at is None:  # a folder of any name beside that of the labels
            return both[0] == both[1] or not (both[1] and bound)
        return len({rest[: min(map(len, both))] for rest in both}) == 1

    pairs = match_files(images, labels, fits)
    return _read(pairs, places, images, labels)


def _says(image: _Place, label: _Place) -> tuple[str, ...]:
    """Return the other words of an image's folder, or of the folder beside that of the label."""
    if image.at is None and label.at is not None and len(image.folders) > label.at:
        return tuple(_words(image.folders[label.at]))
    return image.rest


def _read(
    pairs: dict[Pair, Name],
    places: dict[Path, _Place],
    images: dict[Path, set[Name]],
    labels: dict[Path, set[Name]],
) -> Reading:
    used = {path for pair in pairs for path in pair}
    reading = Reading(
        _layout(next(iter(pairs), None), places),
        by_case_name((_case(pair, name, places), pair) for pair, name in pairs.items()),
        [path for path in images if path not in used],
        [path for path in labels if path not in used and path not in images],
    )
    _leave_channels(reading, pairs)
    reading.findings += [*_divided(pairs, places), *_mixed(pairs, places)]
    if not pairs:
        placed = {path for path in images if places[path].role == "image"}
        reading.examples = list(_examples(list(images), list(labels), placed))
    return reading


def _leave_channels(reading: Reading, pairs: dict[Pair, Name]) -> None:
    """v1_0001 is no image without a label where v1_0000 has the label v1."""
    first = {i.parent / name[-1] for (i, _), name in pairs.items() if stem(i) != name[-1]}
    further = [
        path
        for path in reading.images
        if re.search(r"_\d{4}$", stem(path)) and path.parent / stem(path)[:-5] in first
    ]
    if further:
        reading.images = [path for path in reading.images if path not in further]
        reading.notes.append(
            f"{len(further)} files of further channels are left out; 0000 is read."
        )


def _divided(pairs: dict[Pair, Name], places: dict[Path, _Place]) -> Iterator[Finding]:
    """Find folders that divide the volumes into parts of a split, which is not read from them."""
    parts = {
        SPLITS[word]: folder
        for image, _ in pairs
        for folder in list(image.parents)[: len(places[image].folders)]
        for word in _words(folder.name)
        if word in SPLITS
    }
    if len(parts) > 1:
        names = ", ".join(sorted(parts))
        problem = f"Folders divide the volumes into {names}; they are read as one set."
        alone = f"data.root={parts['train']} for this part alone, or " if "train" in parts else ""
        remedy = f"{alone}training.splits=FILE to keep the parts"
        yield finding("divided", problem, remedy=remedy)


def _mixed(pairs: dict[Pair, Name], places: dict[Path, _Place]) -> Iterator[Finding]:
    """Find pairs named by other words or folders than most: there may be two datasets."""
    ways: dict[tuple[frozenset[str], ...], list[Pair]] = defaultdict(list)
    for pair, name in pairs.items():
        image, label = (places[path] for path in pair)
        at = label.at if label.at is not None else len(label.folders)
        folder = {*_words(*label.folders[at : at + 1])} - {*_says(image, label)}
        names = (_apart(stem(path)) - _apart(name[-1]) for path in pair)
        ways[*names, frozenset(folder)].append(pair)
    most, *others = sorted(ways.values(), key=len, reverse=True) or [[]]
    if others:
        shown = " and ".join(
            " + ".join(f"{path.parent.name}/{path.name}" for path in some[0])
            for some in (most, others[0])
        )
        count = sum(map(len, others))
        problem = f"{count} of {len(pairs)} pairs are named in another way than most: {shown}."
        yield finding("mixed_names", problem)


def _apart(name: str) -> frozenset[str]:
    return frozenset(re.findall(r"[^\W\d_]+|\d+", name))


def _layout(pair: Pair | None, places: dict[Path, _Place]) -> str:
    if pair is None or pair[0].parent == pair[1].parent:
        return "suffix"
    if "derivatives" in places[pair[1]].folders:
        return "bids"
    return "nnunet" if places[pair[0]].rest == (TRAIN,) else "images-labels"


def _case(pair: Pair, name: Name, places: dict[Path, _Place]) -> str:
    image, label = pair
    folders = places[image].folders if image.parent == label.parent else name[:-1]
    if "derivatives" in places[label].folders:  # BIDS: names hold subject and session
        folders = ()
    rest = places[image].rest if places[image].rest != (TRAIN,) else ()
    return "_".join(filter(None, (*folders, *rest, name[-1].removesuffix(ONLY))))


def _examples(images: list[Path], labels: list[Path], placed: set[Path]) -> Iterator[Pair]:
    """Yield pairs that may have been meant; `placed` lie in image folders."""
    for label in labels[:1]:
        near = sorted(images, key=lambda image: _likeness(image, label), reverse=True)
        yield from ((image, label) for image in near[:4])
    if not labels:
        image = min(placed, default=images[0])
        near = sorted(images, key=lambda label: _likeness(image, label), reverse=True)
        yield from ((image, label) for label in near[:5] if label != image)


def _likeness(one: Path, other: Path) -> tuple[int, int]:
    names = stem(one), stem(other)
    ends = common_start(*names), common_start(*(name[::-1] for name in names))
    return len({*one.parts[:-1]} & {*other.parts[:-1]}), sum(map(len, ends))


# --- folders --------------------------------------------------------------------------------


def _place(folders: tuple[str, ...], which: int | None) -> _Place:
    folders = tuple(unicodedata.normalize("NFC", folder) for folder in folders)
    telling = [i for i, folder in enumerate(folders) if _tells(folder)]
    if "derivatives" in folders:  # of BIDS: derivatives/<what made them>/<as the images>
        start = folders.index("derivatives")
        width = 1 if folders[start + 1 : start + 2] and folders[start + 1].startswith("sub-") else 2
        role = "label" if any(map(is_label_folder, folders[start : start + width])) else "derived"
        return _Place(folders, folders[:start] + folders[start + width :], start, role)
    if which is None or not telling:
        return _Place(folders, folders)
    at = telling[which]
    words = _words(folders[at])
    role = "label" if is_label_folder(folders[at]) else "image"
    rest = tuple(word for word in words if word not in ROLES)
    return _Place(folders, folders[:at] + folders[at + 1 :], at, role, rest)


def _tells(folder: str) -> bool:
    """Whether a folder's name gives a role to its files; sub-1, scan_7 and image12 are subjects."""
    words = _words(folder)
    one = words[-1:] and words[-1].isdigit() and words[-2:-1] in ([w] for w in SINGLE)
    return not (folder.startswith(("sub-", "ses-")) or one) and not ROLES.isdisjoint(words)


def is_label_folder(name: str) -> bool:
    """Whether a folder's name marks its files as labels."""
    return not LABEL_FOLDERS.isdisjoint(_words(name))


def _words(*names: str) -> list[str]:
    return [w.lower() for name in names for w in re.findall(r"[A-Z]?[^\W\d_A-Z]+|[A-Z]+|\d+", name)]


# --- names ----------------------------------------------------------------------------------


def _as_image(path: Path, place: _Place, beside: set[tuple[str, ...]]) -> set[Name]:
    """Return the names by which an image may be matched; none if the file is not an image."""
    name = stem(path)
    if place.role in ("label", "derived") or (is_label(name) and place.role != "image"):
        return set()
    contexts = {place.folders, place.others}
    for above in beside:  # labels/ beside a folder of any name
        if place.folders[: len(above)] == above:
            contexts.add(above + place.folders[len(above) + 1 :])
    own = {name, name.removesuffix("_0000"), *_without(_IMAGE, name)}
    if _LABEL.search(name) and place.role != "image":  # it may as well be a label
        own = {name}
    names = {(*folders, base) for folders in contexts for base in own if base or folders}
    return names | ({(*place.folders, ONLY)} if "" in own else set())


def _as_label(path: Path, place: _Place) -> set[Name]:
    """Return the names by which a label may be matched; none if the file is not a label."""
    name = stem(path)
    if place.role == "image" and not is_label(name):
        return set()
    own = {*_without(_LABEL, name), *_before(name)}
    contexts = {place.others, place.folders} if own else {place.others}
    if place.role == "label":
        own.add(name)
    names = {(*folders, base) for folders in contexts for base in own if base or folders}
    alone = place.role == "label" and place.others and not _IMAGE.search(name)
    return names | ({(*place.others, ONLY)} if alone else set())


def is_label(name: str) -> bool:
    """Whether a file's name ends in a word for labels."""
    return any(found.end() == len(name) for found in _LABEL.finditer(name))


def _before(name: str) -> Iterator[str]:
    """Yield the text before a word for labels: v1_seg_r2 -> v1."""
    for found in _LABEL.finditer(name):
        for start in (found.start(), found.start("word")):
            if before := name[:start].rstrip(SEPARATORS):
                yield before


def _without(word: re.Pattern[str], name: str) -> Iterator[str]:
    """Yield the name without one word, and without all of them: vol1_seg -> vol1, volume-1 -> 1."""
    for found in word.finditer(name):
        for start in (found.start(), found.start("word")):
            yield _joined(name[:start], name[found.end() :])
    if word.search(name):
        yield _joined(*word.split(name)[:: word.groups + 1])


def _joined(*parts: str) -> str:
    return "_".join(filter(None, (part.strip(SEPARATORS) for part in parts)))
