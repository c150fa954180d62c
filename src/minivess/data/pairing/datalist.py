"""Pairs listed in `dataset.json`, which are used as written.

Known are MSD's and MONAI's `training` and nnU-Net's `dataset`.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote

from pydantic import AliasChoices, BaseModel, BeforeValidator, Field, TypeAdapter, ValidationError

from minivess.contracts import Finding
from minivess.data import json_file
from minivess.data.checks import finding
from minivess.data.pairing.matches import Reading, by_case_name
from minivess.errors import DataError
from minivess.formats.filenames import stem, suffix, unread_format, volume_files
from minivess.text import some

FORM = 'write {"training": [{"image": "images/a.nii.gz", "label": "labels/a.nii.gz"}, ...]}'
LARGEST = 1 << 24  # bytes of a JSON file that may be a list
OTHER_PARTS = ("validation", "val", "test", "testing")


def _as_list(names: object) -> object:
    return names if isinstance(names, list) else [names] if names else []


Names = Annotated[list[Annotated[str, Field(min_length=1)]], BeforeValidator(_as_list)]


class _Entry(BaseModel):
    """A volume of a list: one name or several of files."""

    case: str | None = Field(None, coerce_numbers_to_str=True)
    images: Names = Field(min_length=1, validation_alias=AliasChoices("image", "images"))
    labels: Names = Field([], validation_alias=AliasChoices("label", "labels"))


CONTENT: TypeAdapter[Any] = TypeAdapter(Any)
ENTRIES: TypeAdapter[list[_Entry]] = TypeAdapter(Annotated[list[_Entry], Field(min_length=1)])


def read_list(root: Path, found: list[Path]) -> Reading | None:
    """Return the pairs of `dataset.json`; None if there is no such file, or no list in it.

    Raises:
        DataError: the file cannot be read, has another form, or lists what is not there.
    """
    content = _content(root / "dataset.json")
    entries = _entries(content, root / "dataset.json")
    if entries is None:
        _refuse_below(root, found)
        return None
    files = _files(root, found, [name for entry in entries for name in entry.images + entry.labels])
    reading = Reading("msd", notes=list(_remarks(content)))
    pairs = []
    for case, entry in zip(_names(entries), entries, strict=True):
        images, labels = ([files[name] for name in names] for names in (entry.images, entry.labels))
        if len(images) == len(labels) == 1:
            pairs.append((case, (images[0], labels[0])))
        elif not labels:
            reading.images += images
        else:
            reading.findings.append(_several(case, len(images), len(labels)))
            reading.examples = reading.examples or [(i, label) for i in images for label in labels]
    reading.cases = by_case_name(pairs)
    return reading


def other_lists(root: Path) -> list[str]:
    """Return the names of JSON files that list pairs as MONAI does, and are not `dataset.json`."""
    return [
        path.name
        for path in sorted(root.glob("*.json"))
        if path.name != "dataset.json" and path.stat().st_size < LARGEST and _lists_pairs(path)
    ]


def _lists_pairs(path: Path) -> bool:
    try:
        return _entries(_content(path), path) is not None
    except DataError:
        return False


def ignored_value(root: Path) -> int | None:
    """Return the label value that `dataset.json` calls ignore, as in nnU-Net."""
    content = _content(root / "dataset.json")
    names = content.get("labels") if isinstance(content, dict) else None
    for one, other in names.items() if isinstance(names, dict) else ():
        for name, value in ((one, other), (other, one)):  # MSD has the value first
            if str(name).lower() == "ignore" and str(value).lstrip("-").isdigit():
                return int(value)
    return None


def _refuse_below(root: Path, found: list[Path]) -> None:
    """Refuse a list in a folder below: it states pairs that would be passed over."""
    holding = {path.parent for path in found}
    folders = {above for folder in holding for above in (folder, *folder.parents)}
    for path in sorted(folder / "dataset.json" for folder in folders):
        if root in path.parent.parents and _entries(_content(path), path) is not None:
            raise DataError(
                f"{path} lists pairs, but data.root is a folder above it.",
                remedy=f"data.root={path.parent}",
            )


def _several(case: str, images: int, labels: int) -> Finding:
    problem = (
        f"dataset.json gives it {images} images and {labels} labels; a volume has one channel "
        "and one label, so it is left out."
    )
    remedy = "data.image and data.label with patterns of the channel and the label to read"
    return finding("wrong_dimensions", problem, case=case, remedy=remedy)


def _content(path: Path) -> Any:
    if not path.exists():
        return None
    remedy = "correct the file, or move it out of data.root"
    return json_file.read(path, CONTENT, what="list", remedy=remedy)


def _entries(content: Any, path: Path) -> list[_Entry] | None:
    raw = content
    if isinstance(content, dict):
        raw = next((content[key] for key in ("training", "train") if key in content), None)
        ids = content.get("dataset")  # nnU-Net: case -> images and label
        if raw is None and isinstance(ids, dict):
            raw = [{"case": case, **entry} for case, entry in ids.items()]
    if not isinstance(raw, list):
        return None
    try:
        return ENTRIES.validate_python(raw)
    except ValidationError as error:
        problem = f"{path} holds a list, but not of images and labels."
        raise DataError(problem, remedy=FORM) from error


def _names(entries: list[_Entry]) -> list[str]:
    """Return the names of cases: stated, or of the files, with folders if needed."""
    paths = [Path(unquote(entry.images[0].replace("\\", "/"))) for entry in entries]
    names = [stem(path) for path in paths]
    if len(set(names)) != len(names):
        common = os.path.commonpath([path.parent for path in paths])
        names = ["_".join((*p.relative_to(common).parts[:-1], stem(p))) for p in paths]
    return [(e.case or n).replace("/", "_") for e, n in zip(entries, names, strict=True)]


def _files(root: Path, found: list[Path], names: list[str]) -> dict[str, Path]:
    known = {_spelled(os.path.realpath(path)): path for path in found}
    known |= {_spelled(os.path.normpath(path)): path for path in found}
    files = {name: _file(root, name, known) for name in names}
    missing = [name for name, path in files.items() if path is None]
    if missing:
        raise DataError(
            f"dataset.json lists {len(missing)} of {len(files)} files that are no volumes in "
            f"{root}: {some(missing, 5)}{_reason(root / missing[0])}.",
            remedy="put them there or take their entries out; data.image and data.label, both "
            "given, set dataset.json aside",
        )
    return {name: path for name, path in files.items() if path is not None}


def _reason(path: Path) -> str:
    what = unread_format(path)
    if what is not None:
        return f" (this is {what[0]}, which is not read)"
    return " (it lies outside that folder)" if path.exists() else ""


def _file(root: Path, name: str, known: Mapping[str, Path]) -> Path | None:
    """Find a file by its name as written, with separators of Windows, or percent-encoded."""
    for text in (name, name.replace("\\", "/"), unquote(name.removeprefix("file://"))):
        plain = root / text
        channel = plain.with_name(f"{stem(plain)}_0000{suffix(plain)}")
        for path in (plain, channel, *volume_files(plain)[1:]):  # the .hdr of an .img
            for place in (os.path.normpath(path), os.path.realpath(path)):
                if _spelled(place) in known:
                    return known[_spelled(place)]
    return None


def _spelled(place: str) -> str:
    return unicodedata.normalize("NFC", place)


def _remarks(content: Any) -> Iterator[str]:
    if not isinstance(content, dict):
        return
    for part in OTHER_PARTS:
        if isinstance(content.get(part), list) and content[part]:
            yield f"dataset.json also lists {len(content[part])} in `{part}`, which are not read."
    if any("fold" in entry for entry in content.get("training", ()) if isinstance(entry, dict)):
        yield "dataset.json states folds, which are not used: training.splits=FILE does."
