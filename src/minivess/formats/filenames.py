"""Names and suffixes of volume files; kinds of files that are not read."""

from __future__ import annotations

import os
import tomllib
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from minivess.contracts import Case

NIFTI = (".nii.gz", ".nii")
SUFFIXES = (*NIFTI, ".ome.tiff", ".ome.tif", ".tiff", ".tif", ".nrrd", ".mha", ".hdr")

_TABLE = tomllib.loads(Path(__file__).with_name("unread.toml").read_text(encoding="utf-8"))
UNREAD: Mapping[str, tuple[str, str]] = {
    ending: (kind["what"].format(ending), _TABLE["remedies"][kind["remedy"]])
    for kind in _TABLE["kinds"]
    for ending in kind["endings"]
}
"""Ending -> what such a file is, and how it becomes one that is read."""
PASSED_OVER = frozenset(kind["what"] for kind in _TABLE["kinds"] if kind.get("passed_over"))
ANNEXED = (
    "a git-annex link without its content",
    "fetch it: `datalad get .`, or `git annex get .`, in that folder",
)


def is_volume(path: Path) -> bool:
    """Whether a name has the suffix of a volume format, in upper or lower case."""
    return suffix(path) in SUFFIXES and not path.name.startswith(("~$", "."))


def stem(path: Path) -> str:
    """Return the name without the suffix of its format, Unicode-normalised (NFC)."""
    name = unicodedata.normalize("NFC", path.name)
    ending = next((end for end in SUFFIXES if name.lower().endswith(end)), Path(name).suffix)
    return name[: len(name) - len(ending)]


def suffix(path: Path) -> str:
    """Return the suffix of its format in lower case: `.nii.gz`, `.ome.tif`."""
    return unicodedata.normalize("NFC", path.name)[len(stem(path)) :].lower()


def unread_format(path: Path) -> tuple[str, str] | None:
    """Return what a file without a reader is and how to convert it; None if that is unknown."""
    if path.is_symlink() and not path.exists():
        annexed = "/annex/objects/" in os.readlink(path)
        return ANNEXED if annexed else None
    if is_volume(path) or len(volume_files(path)) > 1:
        return None
    known = UNREAD.get(path.suffix.lower())
    if known is None and path.is_file() and os.access(path, os.R_OK):
        with path.open("rb") as stream:
            known = UNREAD[".dcm"] if stream.read(132)[128:] == b"DICM" else None
    return known


def unread_formats(paths: Iterable[Path]) -> list[tuple[str, str, list[Path]]]:
    """Group files that are not read: what they are, remedy, files; the most frequent first."""
    kinds: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for path in paths:
        if kind := unread_format(path):
            kinds[kind].append(path)
    return sorted(((*kind, of) for kind, of in kinds.items()), key=lambda kind: -len(kind[2]))


def curated_names(case: Case) -> tuple[str, str]:
    """Return the names of image and label of a case, relative to a curated folder."""
    label = case.label or case.image
    return f"images/{case.case}{suffix(case.image)}", f"labels/{case.case}{suffix(label)}"


def volume_files(path: Path) -> tuple[Path, ...]:
    """Return the files that make a volume, itself first.

    That is a pair of `.hdr` and `.img`, or a TIFF with the JSON file that holds its voxel size for
    nnU-Net.
    """
    ending, plain = path.suffix.lower(), path.with_suffix("")
    beside: list[Path] = []
    if ending in (".hdr", ".img"):
        other = ".img" if ending == ".hdr" else ".hdr"
        beside = [plain.with_name(plain.name + each) for each in (other, other.upper())]
    elif ending in (".tif", ".tiff"):
        names = dict.fromkeys((stem(path), stem(path).removesuffix("_0000")))
        beside = [path.with_name(f"{name}.json") for name in names]
    return path, *[each for each in beside if each.is_file()][:1]
