"""Read and write the folder of one cell: spec, plan, history, result; detect partial files.

Imports no torch, so that a finished cell is recognised in a moment.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from minivess import files, names
from minivess.contracts import CellResult, CellSpec, ComputePlan

log = logging.getLogger(__name__)

PLAN = Path(names.PLAN_ARTIFACT).name
CURVES = "training_curves.png"
PREDICTIONS = "predictions"
PREVIOUS = ".prev"
Entry = dict[str, Any]
"""Of an epoch: `epoch`, `time` it ended, `seconds` it took, where they were `spent`, `metrics`."""
History = list[Entry]


def complete(folder: Path, key: str) -> CellResult | None:
    """The result of a finished cell: valid, of this key, and its files have the recorded sizes."""
    try:
        text = (folder / names.CELL_RESULT).read_text(encoding="utf-8")
        result = CellResult.model_validate_json(text)
    except (OSError, UnicodeDecodeError, ValidationError):
        return None
    if result.key != key:
        return None
    for name, size in result.files.items():
        if not (folder / name).is_file() or (folder / name).stat().st_size != size:
            log.warning("Cell %s trains again: %s is missing or of another size.", key, name)
            return None
    return result


def open_cell(folder: Path, spec: CellSpec, plan: ComputePlan, *, resume: bool) -> ComputePlan:
    """Store spec and plan before the first step; a cell that goes on keeps its first plan.

    Another device gives other bits, so an unfinished cell planned for one that is not asked for
    any more starts again, and so does a folder that holds another key.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for torn in folder.rglob(".????????-*"):
        torn.unlink()
    stored = stored_plan(folder, spec.key) if resume else None
    if stored is not None and (stored.device == plan.device or complete(folder, spec.key)):
        if stored != plan:
            log.info("Cell %s goes on with the plan that it was started with.", spec.key)
        return stored
    clear(folder)
    files.write_text(folder / PLAN, plan.model_dump_json(indent=2))
    files.write_text(folder / names.CELL_SPEC, spec.model_dump_json(indent=2))
    return plan


def stored_plan(folder: Path, key: str) -> ComputePlan | None:
    """The plan that a cell of this key was started with, or is to start with next."""
    try:
        spec = CellSpec.model_validate_json((folder / names.CELL_SPEC).read_text(encoding="utf-8"))
        plan = ComputePlan.model_validate_json((folder / PLAN).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError):
        return None
    return plan if spec.key == key else None


def clear(folder: Path) -> None:
    """Remove what earlier attempts left, the result first."""
    checkpoints = [
        name + suffix for name in (*names.CHECKPOINTS, names.FINAL) for suffix in ("", PREVIOUS)
    ]
    known = (names.CELL_RESULT, *checkpoints, names.HISTORY, CURVES, names.CELL_SPEC, PLAN)
    for path in [*(folder / name for name in known), *(folder / PREDICTIONS).glob("*.png")]:
        path.unlink(missing_ok=True)


def write_history(folder: Path, history: History) -> None:
    """One entry for each epoch."""
    files.write_json(folder / names.HISTORY, history)


def read_history(folder: Path) -> History:
    """The entries of a finished cell."""
    history: History = files.read_json(folder / names.HISTORY)
    return history


def write_result(folder: Path, result: CellResult) -> None:
    """Declare the cell finished; whatever the result names must be there already."""
    files.write_text(folder / names.CELL_RESULT, result.model_dump_json(indent=2))


def figures(folder: Path) -> list[Path]:
    """The images drawn so far, oldest epoch first."""
    curves = [folder / CURVES] if (folder / CURVES).is_file() else []
    return sorted((folder / PREDICTIONS).glob("*.png")) + curves


def sizes(folder: Path) -> dict[str, int]:
    """Name, relative to the folder, and bytes of each file that a result vouches for."""
    kept = (*names.CHECKPOINTS, names.FINAL, names.HISTORY, names.CELL_SPEC, PLAN)
    found = [folder / name for name in kept if (folder / name).is_file()] + figures(folder)
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in found}
