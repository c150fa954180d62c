"""Which image belongs to which label, read from names alone. Imports nothing heavy."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from minivess.contracts import Case, Pairing
from minivess.data.filenames import SUFFIXES, parts
from minivess.data.groups import groups_of
from minivess.data.layouts import Reading, recognised
from minivess.data.patterns import by_pattern
from minivess.errors import DataError

OTHER_FORMATS = (".mhd", ".nhdr", ".h5", ".npy", ".npz", ".dcm", ".zarr")
KINDS = ".nii.gz, .nii, .tif, .nrrd, .mha"
KNOWN_TEXTS = frozenset({".json", ".md", ".txt", ".csv", ".tsv", ".yaml", ".yml", ".pdf", ".html"})
PATTERNS = "data.image='*_img.nii.gz' data.label='{case}_seg.nii.gz'"


def pair(
    root: Path, *, image: str | None = None, label: str | None = None, group: str | None = None
) -> Pairing:
    """Pair the images and labels below `root`; patterns are relative to it.

    Raises:
        DataError: no such folder, nothing in it, nothing that pairs, or a case without a group.
    """
    root = root.expanduser()
    found, others = _volumes(root)
    if image is not None and label is not None:
        reading = by_pattern(root, found, image, label)
    else:
        reading = recognised(root, found)
    if not reading.paired:
        raise _nothing_paired(root, reading, found)
    groups, notes = groups_of(root, reading.paired, group)
    chosen = (*reading.images.values(), *reading.labels.values())
    used = {part for path in chosen for part in parts(path)}
    return Pairing(
        layout=reading.layout,
        cases=tuple(
            Case(
                case=case,
                image=reading.images[case],
                label=reading.labels[case],
                group=groups.get(case),
            )
            for case in reading.paired
        ),
        unpaired_images=_without(reading.images, reading.labels),
        unpaired_labels=_without(reading.labels, reading.images),
        left=tuple(path for path in (*found, *others) if path not in used),
        notes=(*reading.notes, *notes),
    )


def _volumes(root: Path) -> tuple[list[Path], list[Path]]:
    """Volume files, and other files that might have been meant."""
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise DataError(
            f"The data folder {root} {what}.",
            remedy="data.root=/path/to/a/folder that holds images and labels",
        )
    everything = sorted(walk(root))
    found = [
        path
        for path in everything
        if path.name.endswith(SUFFIXES) and not path.name.startswith("~$") and path.is_file()
    ]
    volumes = set(found)
    others = [
        path
        for path in everything
        if path not in volumes and path.suffix not in KNOWN_TEXTS and path.suffix
    ]
    if not found:
        raise _nothing_found(root, others)
    return found, others


def walk(root: Path) -> Iterator[Path]:
    """Files that are not hidden, broken links too; linked folders included, each once."""
    seen = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        folders[:] = [name for name in sorted(folders) if name[0] != "." and name != "__MACOSX"]
        real = os.path.realpath(folder)
        if real in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add(real)
        paths = (Path(folder) / name for name in names if not name.startswith("."))
        yield from (path for path in paths if path.is_file() or path.is_symlink())


def _nothing_found(root: Path, others: list[Path]) -> DataError:
    kinds = Counter(path.suffix for path in others if path.suffix in OTHER_FORMATS)
    if kinds:
        kind, count = kinds.most_common(1)[0]
        return DataError(
            f"{root} holds {count} {kind} files, but no volume ({KINDS}).",
            remedy="convert them to .nii.gz, for example with nibabel or SimpleITK",
        )
    return DataError(
        f"{root} holds no volume ({KINDS}).",
        remedy="data.root=/path/to/a/folder with images/ and labels/, or leave data.root out "
        "for demo data",
    )


def _nothing_paired(root: Path, reading: Reading, found: list[Path]) -> DataError:
    seen = ", ".join(path.relative_to(root).as_posix() for path in found[:4])
    return DataError(
        f"No image in {root} has a label ({len(reading.images)} images and {len(reading.labels)} "
        f"labels were seen; first files: {seen}).",
        remedy=f"give label files the names of their images in images/ and labels/, or name the "
        f"patterns: {PATTERNS}",
    )


def _without(these: Mapping[str, Path], those: Mapping[str, Path]) -> tuple[Path, ...]:
    return tuple(these[case] for case in sorted(these.keys() - those.keys()))
