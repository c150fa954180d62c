"""`dataset.json`, where somebody wrote down which files belong together: it is obeyed as written.

Known are MSD's and MONAI's `training` and nnU-Net's `dataset`.
"""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from minivess.contracts import Finding
from minivess.data.checks import finding
from minivess.data.formats.filenames import parts, stem, suffix, unread
from minivess.data.pairing.matches import Reading, named
from minivess.errors import DataError
from minivess.text import some

FORM = 'write {"training": [{"image": "images/a.nii.gz", "label": "labels/a.nii.gz"}, ...]}'
OTHER_PARTS = ("validation", "val", "test", "testing")
Entry = tuple[str, list[str], list[str]]  # name of the case, its images, its labels


def listed(root: Path, found: list[Path]) -> Reading | None:
    """The pairs of `dataset.json`; None where there is no such file, or no list in it.

    Raises:
        DataError: the file cannot be read, has another form, or lists what is not there.
    """
    content = _content(root / "dataset.json")
    entries = _entries(content, root / "dataset.json")
    if entries is None:
        _refuse_below(root, found)
        return None
    files = _files(root, found, [name for _, *both in entries for names in both for name in names])
    reading = Reading("msd", notes=list(_remarks(content)))
    pairs = []
    for case, *both in entries:
        images, labels = ([files[name] for name in names] for names in both)
        if len(images) == len(labels) == 1:
            pairs.append((case, (images[0], labels[0])))
        elif not labels:
            reading.images += images
        else:
            reading.findings.append(_several(case, len(images), len(labels)))
            reading.examples = reading.examples or [(i, label) for i in images for label in labels]
    reading.cases = named(pairs)
    return reading


def ignored(root: Path) -> int | None:
    """The label value that `dataset.json` calls ignore, as nnU-Net does."""
    content = _content(root / "dataset.json")
    names = content.get("labels") if isinstance(content, dict) else None
    for one, other in names.items() if isinstance(names, dict) else ():
        for name, value in ((one, other), (other, one)):  # MSD has the value first
            if str(name).lower() == "ignore" and str(value).lstrip("-").isdigit():
                return int(value)
    return None


def _refuse_below(root: Path, found: list[Path]) -> None:
    """A list in a folder below is somebody's word, too."""
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
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        raise DataError(
            f"{path} cannot be read: {error}.",
            remedy="correct the file, or move it out of data.root",
        ) from error


def _entries(content: Any, path: Path) -> list[Entry] | None:
    raw = content
    if isinstance(content, dict):
        raw = next((content[key] for key in ("training", "train") if key in content), None)
        ids = content.get("dataset")  # nnU-Net: case -> images and label
        if raw is None and isinstance(ids, dict):
            raw = [{"case": case, **entry} for case, entry in ids.items()]
    if not isinstance(raw, list):
        return None
    known = all(isinstance(entry, dict) and _texts(entry, "image") for entry in raw)
    if not raw or not known or None in (labels := [_texts(entry, "label") for entry in raw]):
        raise DataError(f"{path} holds a list, but not of images and labels.", remedy=FORM)
    images = [_texts(entry, "image") or [] for entry in raw]
    names = _names([names[0] for names in images])
    return [
        (str(entry.get("case", name)).replace("/", "_"), of_image, of_label or [])
        for entry, name, of_image, of_label in zip(raw, names, images, labels, strict=True)
    ]


def _texts(entry: Mapping[str, Any], role: str) -> list[str] | None:
    """The names of an entry as a list; None for another form."""
    value = entry.get(role, entry.get(f"{role}s"))
    listed = value if isinstance(value, list) else [value] if value else []
    return listed if all(isinstance(name, str) and name for name in listed) else None


def _names(images: list[str]) -> list[str]:
    """The names of the files, with their folders where that is needed to tell them apart."""
    paths = [Path(unquote(image.replace("\\", "/"))) for image in images]
    names = [stem(path) for path in paths]
    if len(set(names)) == len(names):
        return names
    common = os.path.commonpath([path.parent for path in paths])
    return ["_".join((*p.relative_to(common).parts[:-1], stem(p))) for p in paths]


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
    what = unread(path)
    if what is not None:
        return f" (this is {what[0]}, which is not read)"
    return " (it lies outside that folder)" if path.exists() else ""


def _file(root: Path, name: str, known: Mapping[str, Path]) -> Path | None:
    """The file that is meant: as written, with the separators of Windows, or percent-encoded."""
    for text in (name, name.replace("\\", "/"), unquote(name.removeprefix("file://"))):
        plain = root / text
        channel = plain.with_name(f"{stem(plain)}_0000{suffix(plain)}")
        for path in (plain, channel, *parts(plain)[1:]):  # the .hdr of an .img
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
