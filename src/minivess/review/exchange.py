"""Export volumes to annotation tools and import what people did there as decisions.

3D Slicer gets a scene with the files themselves; Label Studio, which has no volumes, gets
projections to judge.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Template

from minivess import files, units
from minivess.contracts import Fault
from minivess.errors import DataError
from minivess.formats.filenames import suffix, volume_files
from minivess.home import Home
from minivess.review import decide, queue
from minivess.review.pages.views import projection
from minivess.review.queue import Entry, Role

MANIFEST, SCENE, TASKS, FORM = "export.json", "scene.mrml", "tasks.json", "form.xml"
TEMPLATES = Path(__file__).parent
MARKS = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/"
    "Schema/markups-schema-v1.0.3.json#"
)


# --- 3D Slicer ----------------------------------------------------------------------------


def to_slicer(
    home: Home, entries: Sequence[Entry], folder: Path, marks: Sequence[Fault] = ()
) -> list[str]:
    """Copy images and labels into `folder` with a scene that opens them all; returns the cases.

    Args:
        marks: places to look at, shown as points.

    Raises:
        DataError: `folder` is not empty.
    """
    _refuse_filled(folder)
    exported: dict[str, Any] = {}
    for entry in entries:
        names = {}
        for role, source in queue.current_files(home, entry).items():
            if source.exists():
                names[role] = f"{role}s/{entry.case}{suffix(source)}"
                for part in volume_files(source):
                    ending = suffix(source) if part == source else part.suffix
                    files.copy(part, folder / f"{role}s" / f"{entry.case}{ending}")
        exported[entry.case] = {
            "files": {r: {"name": n, "md5": files.md5(folder / n)} for r, n in names.items()},
            "originals": entry.originals,
        }
    files.write_json(folder / MANIFEST, {"dataset": entries[0].dataset, "volumes": exported})
    template = Template(
        (TEMPLATES / "scene.mrml.j2").read_text(encoding="utf-8"),
        autoescape=True, trim_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    listed = [(c, r, f["name"]) for c, v in exported.items() for r, f in v["files"].items()]
    marked = {case: [one for one in marks if one.case == case] for case in exported}
    points = {case: _points(found, folder, case) for case, found in marked.items() if found}
    files.write_text(folder / SCENE, template.render(files=listed, points=points))
    return list(exported)


def _points(found: Sequence[Fault], folder: Path, case: str) -> str:
    """Write points that Slicer opens, in its millimetres; returns the file's name."""
    controls = [
        {
            "id": str(number),
            "label": f"{one.kind} {number}",
            "description": f"length {one.length:.4g}, lumen {one.lumen:.4g} {one.unit}",
            "position": [axis * (units.in_micron(one.unit) or 1000) / 1000 for axis in one.place],
        }
        for number, one in enumerate(found, start=1)
    ]
    markups = [{"type": "Fiducial", "coordinateSystem": "RAS", "controlPoints": controls}]
    name = f"marks/{case}.mrk.json"
    files.write_json(folder / name, {"@schema": MARKS, "markups": markups})
    return name


def from_slicer(
    home: Home, folder: Path, *, who: str | None, why: str
) -> tuple[list[str], list[str]]:
    """Take labels and images that were changed since the export as fixes.

    Returns:
        The cases that were fixed; what is left: cases whose originals changed since, and files
        of other names than those exported.
    """
    manifest = files.read_json(folder / MANIFEST)
    names = {f["name"] for v in manifest["volumes"].values() for f in v["files"].values()}
    for name in names:
        if not (folder / name).resolve().is_relative_to(folder.resolve()):
            raise DataError(
                f"{folder / MANIFEST} names {name}, which is outside its folder.",
                remedy="minivess review export FOLDER makes a new one",
            )
    known = {entry.case: entry for entry in queue.entries(home, manifest["dataset"])}
    there = {path.relative_to(folder).as_posix() for path in folder.glob("*/*")}
    fixed, left = [], sorted(name for name in there - names if not name.startswith("marks/"))
    for case, exported in manifest["volumes"].items():
        changed: dict[Role, Path] = {
            role: folder / file["name"]
            for role, file in exported["files"].items()
            if (folder / file["name"]).exists() and files.md5(folder / file["name"]) != file["md5"]
        }
        if not changed:
            continue
        entry = known.get(case)
        if entry is None or entry.originals != exported["originals"]:
            left.append(case)
            continue
        decide.decide(home, entry, "fix", who=who, why=why, replacements=changed)
        fixed.append(case)
    return fixed, left


# --- Label Studio -------------------------------------------------------------------------


def to_label_studio(home: Home, entries: Sequence[Entry], folder: Path) -> list[str]:
    """Write projections, the tasks that show them and the form that asks for a verdict.

    Returns the cases; an image that cannot be read has no picture to show. Tasks name pictures as
    Label Studio serves local files: relative to the folder above.
    """
    _refuse_filled(folder)
    shown = {}
    for entry in entries:
        paths = queue.current_files(home, entry)
        name = f"projections/{entry.case}.png"
        pixels = projection(paths["image"], paths["label"])
        if pixels is None:
            continue
        files.write(folder / name, pixels.save)
        shown[entry.case] = {
            "image": f"/data/local-files/?d={folder.resolve().name}/{name}",
            "dataset": entry.dataset,
            "case": entry.case,
            "originals": entry.originals,
            "findings": "\n".join(f"{f.code}: {f.message}" for f in entry.findings),
        }
    files.copy(TEMPLATES / "label_studio.xml", folder / FORM)
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
        entry = queue.find(home, data["dataset"], data["case"])
        verdict, why, who = _answer(task.get("annotations", []))
        if verdict in (None, "fix") or entry.originals != data["originals"]:
            left.append(entry.case)
            continue
        try:
            decide.decide(home, entry, verdict, who=who, why=why)
            decided.append(entry.case)
        except DataError as error:  # accepted there, but no decision makes it usable
            left.append(f"{entry.case} ({error.problem})")
    return decided, left


def _answer(annotations: Iterable[Mapping[str, Any]]) -> tuple[queue.Verdict | None, str, str]:
    """Return verdict, reason and person of the last annotation that was not cancelled."""
    verdict: queue.Verdict | None = None
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
    """Import decisions from a Slicer folder or a Label Studio export.

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


def dataset_of(path: Path) -> str:
    """Return the dataset that a Slicer folder or a Label Studio export is of."""
    if (path / MANIFEST).is_file():
        return str(files.read_json(path / MANIFEST)["dataset"])
    return str(files.read_json(path)[0]["data"]["dataset"])


def _refuse_filled(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(
            f"{folder} is there already, and not empty.",
            remedy="name a new folder; what was changed in the old one is read by review import",
        )
