"""Volumes handed to annotation tools, and what people did there read back as decisions.

3D Slicer gets a scene with the files themselves; Label Studio gets projections to judge, because it
knows no volumes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

from minivess import files
from minivess.data.formats.filenames import parts, suffix
from minivess.data.pages.views import projection
from minivess.data.review import decide, review
from minivess.data.review.review import Entry, Role
from minivess.errors import DataError
from minivess.home import Home

MANIFEST, SCENE, TASKS, FORM = "export.json", "scene.mrml", "tasks.json", "form.xml"
NODES = {  # of 3D Slicer: element, class, colours, and the end of its name
    "image": ("Volume", "ScalarVolume", "Grey", ""),
    "label": ("LabelMapVolume", "LabelMapVolume", "Labels", "-label"),
}
FORM_TEXT = """<View>
  <Header value="$case"/>
  <Text name="findings" value="$findings"/>
  <Image name="image" value="$image"/>
  <Choices name="verdict" toName="image" required="true" choice="single">
    <Choice value="accept"/><Choice value="reject"/><Choice value="fix"/>
  </Choices>
  <TextArea name="why" toName="image" required="true" placeholder="why"/>
</View>
"""


# --- 3D Slicer ----------------------------------------------------------------------------


def to_slicer(home: Home, entries: Sequence[Entry], folder: Path) -> list[str]:
    """Copy images and labels into `folder` with a scene that opens them all; returns the cases.

    Raises:
        DataError: `folder` is not empty.
    """
    _refuse_filled(folder)
    exported = {}
    for entry in entries:
        names = {}
        for role, source in review.standing(home, entry).items():
            if source.exists():
                names[role] = f"{role}s/{entry.case}{suffix(source)}"
                for part in parts(source):
                    ending = suffix(source) if part == source else part.suffix
                    files.copy(part, folder / f"{role}s" / f"{entry.case}{ending}")
        exported[entry.case] = {
            "files": {r: {"name": n, "md5": files.md5(folder / n)} for r, n in names.items()},
            "originals": [entry.image_md5, entry.label_md5],
        }
    files.write_json(folder / MANIFEST, {"dataset": entries[0].dataset, "volumes": exported})
    files.write_text(folder / SCENE, _scene(exported))
    return list(exported)


def from_slicer(
    home: Home, folder: Path, *, who: str | None, why: str
) -> tuple[list[str], list[str]]:
    """Take labels and images that were changed since the export as fixes.

    Returns:
        The cases that were mended; what is left: cases whose originals changed since, and files
        of other names than those exported.
    """
    manifest = files.read_json(folder / MANIFEST)
    for volume in manifest["volumes"].values():
        for file in volume["files"].values():
            if not (folder / file["name"]).resolve().is_relative_to(folder.resolve()):
                raise DataError(
                    f"{folder / MANIFEST} names {file['name']}, which is outside its folder.",
                    remedy="minivess review export FOLDER makes a new one",
                )
    known = {entry.case: entry for entry in review.entries(home, manifest["dataset"])}
    mended, left = [], _strangers(folder, manifest)
    for case, exported in manifest["volumes"].items():
        changed: dict[Role, Path] = {
            role: folder / file["name"]
            for role, file in exported["files"].items()
            if (folder / file["name"]).exists() and files.md5(folder / file["name"]) != file["md5"]
        }
        if not changed:
            continue
        entry = known.get(case)
        if entry is None or [entry.image_md5, entry.label_md5] != exported["originals"]:
            left.append(case)
            continue
        decide.decide(home, entry, "fix", who=who, why=why, replacements=changed)
        mended.append(case)
    return mended, left


def _strangers(folder: Path, manifest: Mapping[str, Any]) -> list[str]:
    """Files saved beside those that were exported."""
    exported = {f["name"] for v in manifest["volumes"].values() for f in v["files"].values()}
    found = {path.relative_to(folder).as_posix() for path in folder.glob("*/*")}
    return sorted(found - exported)


def _scene(exported: Mapping[str, Any]) -> str:
    """MRML: a volume node and its storage node for each file, paths relative to the scene."""
    lines = ['<?xml version="1.0" encoding="UTF-8"?>', '<MRML version="Slicer5.6.2">']
    number = 0
    for case, volume in exported.items():
        for role, file in volume["files"].items():
            number += 1
            kind, node, colours, ending = NODES[role]
            name = case + ending
            storage = f"vtkMRMLVolumeArchetypeStorageNode{number}"
            display = f"vtkMRML{node}DisplayNode{number}"
            lines += [
                f'  <VolumeArchetypeStorage id="{storage}" name={quoteattr(name + " file")} '
                f'fileName={quoteattr(file["name"])} useCompression="1"/>',
                f'  <{kind}Display id="{display}" name={quoteattr(name + " display")} '
                f'colorNodeID="vtkMRMLColorTableNode{colours}"/>',
                f'  <{kind} id="vtkMRML{node}Node{number}" name={quoteattr(name)} '
                f'storageNodeRef="{storage}" displayNodeRef="{display}"/>',
            ]
    return "\n".join([*lines, "</MRML>"]) + "\n"


# --- Label Studio -------------------------------------------------------------------------


def to_label_studio(home: Home, entries: Sequence[Entry], folder: Path) -> list[str]:
    """Write projections, the tasks that show them and the form that asks for a verdict.

    Returns the cases; an image that cannot be read has no picture to show. Tasks name pictures as
    Label Studio serves local files: relative to the folder above.
    """
    _refuse_filled(folder)
    shown = {}
    for entry in entries:
        paths = review.standing(home, entry)
        name = f"projections/{entry.case}.png"
        pixels = projection(paths["image"], paths["label"])
        if pixels is None:
            continue
        files.write(folder / name, pixels.save)
        shown[entry.case] = {
            "image": f"/data/local-files/?d={folder.resolve().name}/{name}",
            "dataset": entry.dataset,
            "case": entry.case,
            "originals": [entry.image_md5, entry.label_md5],
            "findings": "\n".join(f"{f.code}: {f.message}" for f in entry.findings),
        }
    files.write_text(folder / FORM, FORM_TEXT)
    files.write_json(folder / TASKS, [{"data": data} for data in shown.values()])
    return list(shown)


def from_label_studio(home: Home, path: Path) -> tuple[list[str], list[str]]:
    """Take the verdicts of an export of Label Studio (JSON) as decisions.

    Returns:
        The cases decided, and those left: no verdict, a `fix` (it needs a file), or changed since.
    """
    decided, left = [], []
    for task in files.read_json(path):
        data = task["data"]
        entry = review.find(home, data["dataset"], data["case"])
        verdict, why, who = _answer(task.get("annotations", []))
        current = [entry.image_md5, entry.label_md5] == data["originals"]
        if verdict is None or verdict == "fix" or not current:
            left.append(entry.case)
            continue
        try:
            decide.decide(home, entry, verdict, who=who, why=why)
            decided.append(entry.case)
        except DataError as error:  # accepted there, but no decision makes it usable
            left.append(f"{entry.case} ({error.problem})")
    return decided, left


def _answer(annotations: Iterable[Mapping[str, Any]]) -> tuple[review.Verdict | None, str, str]:
    """Verdict, reason and person of the last annotation that was not cancelled."""
    verdict: review.Verdict | None = None
    why, who = "", ""
    for annotation in annotations:
        if annotation.get("was_cancelled"):
            continue
        by = annotation.get("completed_by", "unknown")
        who = f"{by.get('email', by.get('id')) if isinstance(by, dict) else by} (Label Studio)"
        for part in annotation["result"]:
            if part["from_name"] == "verdict":
                verdict = part["value"]["choices"][0]
            elif part["from_name"] == "why":
                why = " ".join(part["value"]["text"])
    return verdict, why or "judged in Label Studio", who


def read_back(home: Home, path: Path, *, who: str | None, why: str) -> tuple[list[str], list[str]]:
    """Read a Slicer folder or a Label Studio export back.

    Raises:
        DataError: `path` is neither.
    """
    if (path / MANIFEST).is_file():
        return from_slicer(home, path, who=who, why=why)
    try:
        return from_label_studio(home, path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} is neither a folder of `review export` nor a JSON export of Label Studio.",
            remedy="minivess review import FOLDER (3D Slicer) or FILE.json (Label Studio)",
        ) from error


def _refuse_filled(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(
            f"{folder} is there already, and not empty.",
            remedy="name a new folder; what was changed in the old one is read by review import",
        )
