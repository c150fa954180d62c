"""Ways in which data folders are laid out, each read into images and labels by case name.

`dataset.json` (Medical Segmentation Decathlon), imagesTr/ + labelsTr/ (nnU-Net), images/ +
labels/, and pairs side by side told apart by a word in their names (vol1_img, vol1_seg).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from minivess.data.filenames import stem, suffix
from minivess.errors import DataError

IMAGE_FOLDERS = ("images", "image", "imgs", "img", "raw", "scans", "volumes")
LABEL_FOLDERS = ("labels", "label", "masks", "mask", "seg", "segs", "segmentations", "annotations")
IMAGE_WORDS = frozenset({"img", "image", "im", "raw", "scan", "volume", "orig"})
LABEL_WORDS = frozenset(
    {"seg", "segmentation", "label", "labels", "mask", "gt", "annotation", "manual", "groundtruth"}
)


@dataclass
class Reading:
    """Files by case, as one layout reads them; what was set aside, and remarks."""

    layout: str
    images: dict[str, Path]
    labels: dict[str, Path]
    notes: list[str] = field(default_factory=list)

    @property
    def paired(self) -> list[str]:
        """Cases that have both."""
        return sorted(self.images.keys() & self.labels.keys())


def recognised(root: Path, found: list[Path]) -> Reading:
    """The first layout that pairs something, else the one that saw most."""
    readings = [
        reading
        for layout in (_decathlon, _nnunet, _folders, _side_by_side)
        if (reading := layout(root, found)) is not None
    ]
    return next(
        (reading for reading in readings if reading.paired),
        max(readings, key=lambda reading: len(reading.images) + len(reading.labels)),
    )


def _decathlon(root: Path, found: list[Path]) -> Reading | None:
    """`dataset.json` whose `training` lists pairs."""
    listed = _training_list(root / "dataset.json")
    if listed is None:
        return None
    reading = Reading("msd", {}, {})
    known = {path.resolve(): path for path in found}
    for entry in listed:
        for role, files_of in (("image", reading.images), ("label", reading.labels)):
            path = _listed(root, entry.get(role, ""), known)
            if path is None:
                reading.notes.append(f"dataset.json lists {entry.get(role)}, which is not there.")
            else:
                files_of[stem(root / entry[role])] = path
    return reading


def _training_list(path: Path) -> list[dict[str, str]] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        raise DataError(
            f"{path} cannot be read: {error}.", remedy="mend the file, or move it out of data.root"
        ) from error
    listed = content.get("training") if isinstance(content, dict) else None
    if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
        return None
    return listed


def _listed(root: Path, name: str, known: Mapping[Path, Path]) -> Path | None:
    plain = root / name
    channel = plain.with_name(f"{stem(plain)}_0000{suffix(plain)}")
    return known.get(plain.resolve()) or known.get(channel.resolve())


def _nnunet(root: Path, found: list[Path]) -> Reading | None:
    """imagesTr/ + labelsTr/; images carry a channel number, of which 0000 is read."""
    images = _below(found, root / "imagesTr")
    labels = _below(found, root / "labelsTr")
    if not images or not labels:
        return None
    first = [path for path in images if not re.search(r"_(?!0000)\d{4}$", stem(path))]
    if not first or not {stem(p) for p in labels} & {_channel_off(stem(p)) for p in first}:
        first = images
    reading = Reading("nnunet", {}, {})
    collect(reading.images, first, lambda path: _channel_off(stem(path)), reading.notes)
    collect(reading.labels, labels, stem, reading.notes)
    if len(first) < len(images):
        reading.notes.append(
            f"{len(images) - len(first)} files of further channels are left out; 0000 is read."
        )
    return reading


def _channel_off(name: str) -> str:
    return name.removesuffix("_0000")


def _folders(root: Path, found: list[Path]) -> Reading | None:
    """images/ + labels/ or their synonyms, paired by equal names or by names less a role word."""
    image_folder, label_folder = _folder(root, IMAGE_FOLDERS), _folder(root, LABEL_FOLDERS)
    if image_folder is None or label_folder is None:
        return None

    def read(name: Callable[[str], str]) -> Reading:
        reading = Reading("images-labels", {}, {})
        for files_of, folder in (
            (reading.images, image_folder),
            (reading.labels, label_folder),
        ):
            collect(
                files_of,
                _below(found, folder),
                lambda path, folder=folder: name(_flat(path, folder)),  # type: ignore[misc]
                reading.notes,
            )
        return reading

    return max((read(str), read(_role_off), read(_channel_off)), key=lambda r: len(r.paired))


def _folder(root: Path, names: Iterable[str]) -> Path | None:
    folders = {path.name.lower(): path for path in root.iterdir() if path.is_dir()}
    return next((folders[name] for name in names if name in folders), None)


def _below(found: list[Path], folder: Path) -> list[Path]:
    return [path for path in found if path.is_relative_to(folder)]


def _flat(path: Path, folder: Path) -> str:
    """A case name from a path below its folder: sub/vol -> sub_vol."""
    return "_".join((*path.relative_to(folder).parts[:-1], stem(path)))


def _side_by_side(root: Path, found: list[Path]) -> Reading:
    """Pairs side by side, told apart by a word: vol1(_img) and vol1_seg, p1/image and p1/seg."""
    reading = Reading("suffix", {}, {})
    labels = [path for path in found if role(stem(path)) in LABEL_WORDS]
    images = [path for path in found if path not in set(labels)]

    def name(path: Path) -> str:
        return "_".join(
            part for part in (*path.relative_to(root).parts[:-1], _role_off(stem(path))) if part
        )

    # A file with a role word is the better image of two that would share a case.
    images.sort(key=lambda path: role(stem(path)) not in IMAGE_WORDS)
    collect(reading.images, images, name, reading.notes)
    collect(reading.labels, labels, name, reading.notes)
    return reading


def role(name: str) -> str:
    """The last word of a name, which may say what the file is for: vol1_seg -> seg."""
    return re.split(r"[_\-. ]", name.lower())[-1]


def _role_off(name: str) -> str:
    """vol1_seg -> vol1; a name that is only a role word becomes empty."""
    if role(name) not in IMAGE_WORDS | LABEL_WORDS:
        return name
    return re.sub(r"[_\-. ]?[^_\-. ]+$", "", name)


def collect(
    into: dict[str, Path], paths: Iterable[Path], name: Callable[[Path], str], notes: list[str]
) -> None:
    for path in paths:
        case = name(path)
        if case in into:
            notes.append(f"{path.name} is left out: {into[case].name} already is case {case}.")
        else:
            into[case] = path
