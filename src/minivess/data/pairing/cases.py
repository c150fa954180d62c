"""Pair images with labels from file names, without opening a volume."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path

from minivess.contracts import Case, Pairing
from minivess.data.pairing.datalist import ignored_value, other_lists, read_list
from minivess.data.pairing.groups import groups_of
from minivess.data.pairing.layouts import read_layout
from minivess.data.pairing.matches import Ambiguous, Pair, Reading
from minivess.data.pairing.patterns import propose_patterns, read_patterns
from minivess.errors import DataError
from minivess.formats.filenames import is_volume, unread_format, unread_formats, volume_files
from minivess.text import several, some

KINDS = ".nii.gz, .nii, .tif, .nrrd, .mha, .hdr + .img"
KNOWN_TEXTS = frozenset({".json", ".md", ".txt", ".csv", ".tsv", ".yaml", ".yml", ".pdf", ".html"})
CHUNKED = (".zarr", ".n5")  # folders that are one array


def pair_files(
    root: Path, *, image: str | None = None, label: str | None = None, group: str | None = None
) -> Pairing:
    """Pair the images and labels below `root`, from `dataset.json`, patterns, or folder layouts.

    Args:
        image: pattern relative to `root`, for example `images/{case}_0000.nii.gz`; * stands for
            anything within a folder, ** for any folders, {case} for what image and label share.
        label: pattern of the labels; given together with `image` or not at all.
        group: regular expression whose first group in the name of a case is its group, or the
            path of a JSON file {"case": "group"}; None for `groups.json` in `root`, if it exists.

    Raises:
        DataError: no such folder, nothing in it, nothing that pairs or more than one way to pair
            it, or a case without a group.
    """
    root = root.expanduser()
    found, others = _volumes(root)
    try:
        reading = _reading(root, found, image, label)
    except Ambiguous as question:
        raise _ambiguous(root, found, question.pairs) from None
    _set_absent_aside(reading)
    if not reading.cases:
        raise _nothing_paired(root, reading, [*found, *others])
    groups, notes = groups_of(root, sorted(reading.cases), group)
    chosen = (*reading.images, *reading.labels, *chain(*reading.cases.values()))
    used = {part for path in chosen for part in volume_files(path)}
    return Pairing(
        layout=reading.layout,
        cases=tuple(
            Case(case=case, image=files[0], label=files[1], group=groups.get(case))
            for case, files in sorted(reading.cases.items())
        ),
        unpaired_images=tuple(sorted(reading.images)),
        unpaired_labels=tuple(sorted(reading.labels)),
        ignored=ignored_value(root),
        left=tuple(path for path in (*found, *others) if path not in used),
        notes=(*reading.notes, *notes, *_split_file(root), *_other_lists(root, reading)),
        findings=tuple(reading.findings),
    )


def _reading(root: Path, found: list[Path], image: str | None, label: str | None) -> Reading:
    if image is not None and label is not None:
        return read_patterns(root, found, image, label)
    if image is not None or label is not None:
        raise DataError(
            "data.image and data.label belong together, and only one of them is given.",
            remedy="data.image='*_img.nii.gz' data.label='{case}_seg.nii.gz', or neither",
        )
    return read_list(root, found) or read_layout(root, found)


def _other_lists(root: Path, reading: Reading) -> list[str]:
    """Name lists of MONAI that are passed over because of their names."""
    if reading.layout in ("msd", "pattern"):
        return []
    return [
        f"{name} lists pairs and is not read; named dataset.json it would be."
        for name in other_lists(root)
    ]


def _split_file(root: Path) -> list[str]:
    path = root / "splits_final.json"  # of nnU-Net
    used = f"{path.name} states folds, which are used with training.splits={path}."
    return [used] if path.exists() else []


def _set_absent_aside(reading: Reading) -> None:
    """Set aside pairs of which one file is a link without content."""
    for case, (image, label) in list(reading.cases.items()):
        if not (image.exists() and label.exists()):
            del reading.cases[case]
            reading.images.append(image)
            reading.labels.append(label)
    reading.images = [path for path in reading.images if path.exists()]
    reading.labels = [path for path in reading.labels if path.exists()]


def _volumes(root: Path) -> tuple[list[Path], list[Path]]:
    """Return volume files, and other files that might have been meant."""
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise DataError(
            f"The data folder {root} {what}.",
            remedy="name a folder that holds images and labels: data.root=/path/to/folder",
        )
    found, others = [], []
    for path in sorted(walk_files(root)):
        if is_volume(path) and not path.is_dir():
            found.append(path)
        elif path.suffix not in KNOWN_TEXTS and (path.suffix or unread_format(path)):
            others.append(path)
    if not found:
        raise _nothing_found(root, others)
    return found, others


def walk_files(root: Path) -> Iterator[Path]:
    """Yield files that are not hidden, broken links too; linked folders are entered once."""
    seen = set()
    for folder, folders, names in os.walk(root, onerror=_refuse, followlinks=True):
        chunked = [name for name in folders if name.lower().endswith(CHUNKED)]
        skipped = {"__MACOSX", "lost+found", *chunked}
        folders[:] = [name for name in sorted(folders) if name[0] != "." and name not in skipped]
        real = os.path.realpath(folder)
        if real in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add(real)
        paths = (Path(folder) / name for name in (*names, *chunked) if not name.startswith("."))
        yield from (path for path in paths if path.exists() or path.is_symlink())


def _refuse(error: OSError) -> None:
    raise DataError(
        f"The folder {error.filename} cannot be read: {error.strerror}.",
        remedy=f"chmod u+rx {error.filename}, or move it out of the data",
    ) from error


def _nothing_found(root: Path, others: list[Path]) -> DataError:
    read, remedy = _not_read(root, others)
    return DataError(
        f"{root} holds no volume ({KINDS}){read}.",
        remedy=remedy
        or "data.root=/path/to/a/folder with images/ and labels/, or leave data.root out for demo "
        "data",
    )


def _not_read(root: Path, paths: list[Path]) -> tuple[str, str]:
    """Describe files that are not read, and the remedy."""
    for what, remedy, files in unread_formats(paths):
        return (
            f"; {several(len(files), 'file', 'are')} not read, {what}: {_some(root, files)}",
            remedy,
        )
    return "", ""


def _ambiguous(root: Path, found: list[Path], pairs: list[Pair]) -> DataError:
    images, labels = (list(dict.fromkeys(files)) for files in zip(*pairs, strict=True))
    one, several = (images[:1], labels) if len(labels) > 1 else (labels[:1], images)
    what = "labels" if several is labels else "images"
    words = propose_patterns(root, found, pairs)
    return DataError(
        f"{_some(root, one)} has {len(several)} {what} that fit it alike: {_some(root, several)}.",
        remedy=f"say which are meant: {_or(words)}"
        if words
        else "move all but one of them out of data.root",
    )


def _nothing_paired(root: Path, reading: Reading, files: list[Path]) -> DataError:
    found = [path for path in files if is_volume(path)]
    read, remedy = _not_read(root, [p for p in files if not (is_volume(p) and p.exists())])
    reason = "".join(f" {finding.case}: {finding.message}" for finding in reading.findings[:1])
    reason += "".join(f" {note}" for note in _other_lists(root, reading))
    words = propose_patterns(root, found, reading.examples)
    best = {text: count for text, count in words.items() if count == max(words.values())}
    return DataError(
        f"No image in {root} has a label ({several(len(reading.images), 'image')} and "
        f"{several(len(reading.labels), 'label')} were seen; first files: {_some(root, found)}"
        f"{read}).{reason}",
        remedy=f"if these are the pairs: {_or(best)}"
        if best
        else remedy or "give labels the names of their images, in images/ and labels/",
    )


def _or(words: Mapping[str, int]) -> str:
    ways = [f"{text} ({count} pair{'s' if count > 1 else ''})" for text, count in words.items()]
    return ", or ".join((*ways[:4], *(["so on for the others"] if ways[4:] else [])))


def _some(root: Path, paths: list[Path]) -> str:
    return some((path.relative_to(root).as_posix() for path in paths), 4)
