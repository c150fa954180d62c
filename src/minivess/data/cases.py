"""Which image belongs to which label, read from names alone. Imports nothing heavy.

Five layouts are known, tried in this order: patterns given by the user, `dataset.json` (Medical
Segmentation Decathlon), imagesTr/ + labelsTr/ (nnU-Net), images/ + labels/, and pairs side by side
told apart by a word in their names (vol1_img, vol1_seg).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from minivess import files
from minivess.contracts import Case, Pairing
from minivess.errors import DataError

SUFFIXES = (".nii.gz", ".nii")
OTHER_FORMATS = (".tif", ".tiff", ".nrrd", ".mha", ".mhd", ".h5", ".npy", ".npz", ".dcm", ".zarr")
IMAGE_FOLDERS = ("images", "image", "imgs", "img", "raw", "scans", "volumes")
LABEL_FOLDERS = ("labels", "label", "masks", "mask", "seg", "segs", "segmentations", "annotations")
IMAGE_WORDS = frozenset({"img", "image", "im", "raw", "scan", "volume", "orig"})
LABEL_WORDS = frozenset(
    {"seg", "segmentation", "label", "labels", "mask", "gt", "annotation", "manual", "groundtruth"}
)
GROUPS = "groups.json"
KNOWN_TEXTS = frozenset({".json", ".md", ".txt", ".csv", ".tsv", ".yaml", ".yml", ".pdf", ".html"})
PATTERNS = "data.image='*_img.nii.gz' data.label='{case}_seg.nii.gz'"


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
        reading = _by_pattern(root, found, image, label)
    else:
        reading = _recognised(root, found)
    if not reading.paired:
        raise _nothing_paired(root, reading, found)
    groups, notes = _groups(root, reading.paired, group)
    used = {*reading.images.values(), *reading.labels.values()}
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


def stem(path: Path) -> str:
    """The file's name without .nii or .nii.gz."""
    for suffix in SUFFIXES:
        if path.name.endswith(suffix):
            return path.name.removesuffix(suffix)
    return path.stem


def suffix(path: Path) -> str:
    """`.nii.gz` or `.nii`."""
    return path.name[len(stem(path)) :]


def curated_names(case: Case) -> tuple[str, str]:
    """Image and label of a case, relative to a curated folder."""
    label = case.label or case.image
    return f"images/{case.case}{suffix(case.image)}", f"labels/{case.case}{suffix(label)}"


# --- files --------------------------------------------------------------------------------


def _volumes(root: Path) -> tuple[list[Path], list[Path]]:
    """NIfTI files, and other files that might have been meant."""
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise DataError(
            f"The data folder {root} {what}.",
            remedy="data.root=/path/to/a/folder that holds images and labels",
        )
    everything = [
        path for path in sorted(root.rglob("*")) if path.is_file() and _is_shown(path, root)
    ]
    found = [path for path in everything if path.name.endswith(SUFFIXES)]
    others = [
        path
        for path in everything
        if not path.name.endswith(SUFFIXES) and path.suffix not in KNOWN_TEXTS and path.suffix
    ]
    if not found:
        raise _nothing_found(root, others)
    return found, others


def _is_shown(path: Path, root: Path) -> bool:
    parts = path.relative_to(root).parts
    return not any(part.startswith(".") or part == "__MACOSX" for part in parts)


def _nothing_found(root: Path, others: list[Path]) -> DataError:
    kinds = Counter(path.suffix for path in others if path.suffix in OTHER_FORMATS)
    if kinds:
        kind, count = kinds.most_common(1)[0]
        return DataError(
            f"{root} holds {count} {kind} files, but no NIfTI volume (.nii, .nii.gz).",
            remedy="convert them to .nii.gz, for example with nibabel or SimpleITK",
        )
    return DataError(
        f"{root} holds no NIfTI volume (.nii, .nii.gz).",
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


# --- layouts ------------------------------------------------------------------------------


def _recognised(root: Path, found: list[Path]) -> Reading:
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
    _collect(reading.images, first, lambda path: _channel_off(stem(path)), reading.notes)
    _collect(reading.labels, labels, stem, reading.notes)
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
            _collect(
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
    labels = [path for path in found if _role(stem(path)) in LABEL_WORDS]
    images = [path for path in found if path not in set(labels)]

    def name(path: Path) -> str:
        return "_".join(
            part for part in (*path.relative_to(root).parts[:-1], _role_off(stem(path))) if part
        )

    # A file with a role word is the better image of two that would share a case.
    images.sort(key=lambda path: _role(stem(path)) not in IMAGE_WORDS)
    _collect(reading.images, images, name, reading.notes)
    _collect(reading.labels, labels, name, reading.notes)
    return reading


def _role(name: str) -> str:
    return re.split(r"[_\-. ]", name.lower())[-1]


def _role_off(name: str) -> str:
    """vol1_seg -> vol1; a name that is only a role word becomes empty."""
    if _role(name) not in IMAGE_WORDS | LABEL_WORDS:
        return name
    return re.sub(r"[_\-. ]?[^_\-. ]+$", "", name)


def _collect(
    into: dict[str, Path], paths: Iterable[Path], name: Callable[[Path], str], notes: list[str]
) -> None:
    for path in paths:
        case = name(path)
        if case in into:
            notes.append(f"{path.name} is left out: {into[case].name} already is case {case}.")
        else:
            into[case] = path


# --- patterns -----------------------------------------------------------------------------


def _by_pattern(root: Path, found: list[Path], image: str, label: str) -> Reading:
    """Images and labels by the user's patterns; a file that both fit goes to the longer one."""
    reading = Reading("pattern", {}, {})
    first, second = sorted((image, label), key=_literal_length, reverse=True)
    taken: dict[str, dict[Path, str]] = {}
    for pattern in (first, second):
        matched = _matches(root, found, pattern)
        taken[pattern] = {p: c for p, c in matched.items() if p not in taken.get(first, {})}
        if not taken[pattern]:
            raise _no_match(
                root, found, pattern, "data.image" if pattern == image else "data.label"
            )
    for files_of, pattern in ((reading.images, image), (reading.labels, label)):
        _collect(files_of, taken[pattern], taken[pattern].__getitem__, reading.notes)
    return reading


def _literal_length(pattern: str) -> int:
    return len(re.sub(r"\*+|\{case\}", "", pattern))


def _no_match(root: Path, found: list[Path], pattern: str, key: str) -> DataError:
    seen = ", ".join(path.relative_to(root).as_posix() for path in found[:4])
    return DataError(
        f"{key}={pattern} fits no file in {root} that is not taken (first files: {seen}).",
        remedy=f"{key}='<pattern of those names>', with * or {{case}} for what differs",
    )


def _matches(root: Path, found: list[Path], pattern: str) -> dict[Path, str]:
    """File -> case, for files that fit. A pattern without / is held against names alone."""
    rule = re.compile(_regex(pattern))
    matched = {}
    for path in found:
        name = path.relative_to(root).as_posix() if "/" in pattern else path.name
        if match := rule.fullmatch(name):
            parts = match.groupdict()
            chosen = (
                [parts["case"]] if "case" in parts else [part for part in parts.values() if part]
            )
            matched[path] = "_".join(chosen).replace("/", "_") or stem(path)
    return matched


def _regex(pattern: str) -> str:
    """`*` is anything within one folder, `**` any folders, `{case}` the same text throughout."""
    text, seen = "", False
    for index, piece in enumerate(re.split(r"(\*\*/|\*+|\{case\})", pattern.removeprefix("./"))):
        if piece == "{case}":
            text += "(?P=case)" if seen else "(?P<case>[^/]+)"
            seen = True
        elif piece == "**/":
            text += f"(?P<w{index}>(?:[^/]+/)*)"
        elif piece.startswith("*"):
            text += f"(?P<w{index}>{'.*' if piece == '**' else '[^/]*'})"
        else:
            text += re.escape(piece)
    return text


# --- groups -------------------------------------------------------------------------------


def _groups(root: Path, cases: list[str], rule: str | None) -> tuple[dict[str, str], list[str]]:
    """Case -> group, and what to say about it."""
    if rule is not None and not rule.endswith(".json"):
        groups, source = _by_regex(cases, rule), f"data.group={rule}"
    elif rule is not None or (root / GROUPS).exists():
        path = _group_file(root, rule)
        groups, source = _by_file(cases, path), str(path if rule else GROUPS)
    else:
        return {}, _prefix_warning(cases)
    count = len(set(groups.values()))
    return groups, [
        f"{count} groups by {source}: a group is never split between training and validation."
    ]


def _group_file(root: Path, rule: str | None) -> Path:
    candidates = [Path(rule).expanduser(), root / rule] if rule else [root / GROUPS]
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        raise DataError(f"There is no group file {rule}.", remedy="data.group=/path/to/groups.json")
    return path


def _by_file(cases: list[str], path: Path) -> dict[str, str]:
    try:
        content = files.read_json(path)
    except ValueError as error:
        raise DataError(
            f"The group file {path} is no JSON: {error}.", remedy='write {"case": "group", ...}'
        ) from error
    if not isinstance(content, dict):
        raise DataError(
            f"The group file {path} holds no object.", remedy='write {"case": "group", ...}'
        )
    named = {stem(Path(name)): str(group) for name, group in content.items()} | content
    return _complete(cases, {c: str(named[c]) for c in cases if c in named}, str(path))


def _by_regex(cases: list[str], rule: str) -> dict[str, str]:
    try:
        expression = re.compile(rule)
    except re.error as error:
        raise DataError(
            f"data.group={rule} is no regular expression: {error}.",
            remedy=r"for example 'data.group=^(mouse\d+)', or a JSON file",
        ) from error
    groups = {}
    for case in cases:
        if match := expression.search(case):
            groups[case] = next((part for part in match.groups() if part), match.group())
    return _complete(cases, groups, f"data.group={rule}")


def _complete(cases: list[str], groups: dict[str, str], source: str) -> dict[str, str]:
    missing = [case for case in cases if case not in groups]
    if missing:
        raise DataError(
            f"{source} names no group for {len(missing)} of {len(cases)} volumes: {missing[0]}"
            f"{', ...' if len(missing) > 1 else ''}.",
            remedy="give every volume a group, or leave data.group out",
        )
    return groups


def _prefix_warning(cases: list[str]) -> list[str]:
    """Volumes of one animal often share a prefix; across folds they would leak."""
    rule = r"^(.+)[_\-. ][^_\-. ]+$"
    prefixes = Counter(
        match.group(1) if (match := re.search(rule, case)) else case for case in cases
    )
    shared = {prefix: count for prefix, count in prefixes.items() if count > 1}
    if len(prefixes) < 2 or not shared:
        return []
    some = ", ".join(f"{prefix} ({count})" for prefix, count in list(shared.items())[:3])
    return [
        f"Warning: volumes share name prefixes: {some}. If a prefix is one subject, its volumes "
        f"must not stand in both training and validation: 'data.group={rule}'."
    ]
