"""Look at a folder and write the smallest experiment file that runs it, a reason for each line."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from minivess import config as configs
from minivess import files
from minivess.contracts import DatasetProfile
from minivess.data.pairing.groups import PREFIX
from minivess.errors import DataError
from minivess.evaluation.regions import Region
from minivess.formats import volume
from minivess.grid.context import GridContext, measure_hardware, plan_model
from minivess.grid.families import families
from minivess.orchestration.session import Session
from minivess.stages.dataset_scan import scan_dataset
from minivess.stages.profile import measure, print_summary, summary
from minivess.stages.profile_text import pairing_lines, warning_lines
from minivess.text import format_duration, several, slug

if TYPE_CHECKING:
    from minivess.data.profiling.profile import Measured

SETTING = re.compile(r"(data\.[\w.]+)=(\S+?)(?=[,;]?(?:\s|$))")
LOOKED_AT = 3
"""Volumes whose masks are measured, the smallest first."""
THIN = 15.0
"""Centreline over thickness. Measured, medians: hippocampus 9, spinal cord 1, OCTA vessels 66."""
SMALL_SHARE = 0.002
FEW = 9
LOOKS = 4


class Choice(NamedTuple):
    """A setting of the file, and why it stands there."""

    key: str
    value: Any
    reason: str


def init(session: Session) -> dict[str, Any]:
    """Write configs/experiments/<dataset>.yaml below the current folder, or compare it.

    A file that is there stays as it is; what would now be written otherwise is printed.
    """
    root = session.config.data.root
    assert isinstance(root, Path)
    choices, session, profile, measured = _data_choices(session, root)
    choices += _training_choices(profile, slenderness(profile, measured))
    hardware = measure_hardware(session)
    if not hardware.gpu_count:
        choices += _cpu_choices(hardware.cores)
    session = _with(session, choices)
    path = Path("configs") / "experiments" / f"{slug(profile.dataset)}.yaml"
    forecast = _forecast(session, profile, measured, hardware)
    if path.exists():
        changed = list(_differences(configs.read_yaml(path), choices))
        for line in changed or ["as it would be written now"]:
            session.print(f"  {path}: {line}")
        return {"file": str(path), "written": False, "changes": changed}
    notes = [f"Forecast: {forecast}", *map(str.strip, warning_lines(profile))]
    files.write_text(path, "\n".join(_lines(choices, notes)) + "\n")
    session.print(f"\n{path.read_text(encoding='utf-8')}")
    session.print(f"  {path}; then: minivess plan {path}, minivess experiment {path}")
    return {
        "file": str(path), "written": True, "forecast": forecast,
        "settings": {one.key: one.value for one in choices},
    }  # fmt: skip


# --- what the data ask for ----------------------------------------------------------------


def _data_choices(
    session: Session, root: Path
) -> tuple[list[Choice], Session, DatasetProfile, Measured]:
    """The settings of the data, and the volumes measured with them."""
    choices = [Choice("data.root", str(root), "the folder; it is only read")]
    scan = scan_dataset(session)
    for line in pairing_lines(scan.root, scan.pairing):
        session.print(line)
    hint = next((note for note in scan.pairing.notes if f"data.group={PREFIX}" in note), None)
    if hint and session.config.data.group is None:
        choices.append(Choice("data.group", PREFIX, hint))
    for look in range(LOOKS):
        try:
            session = _with(session, choices)
            if look or len(choices) > 1:
                scan = scan_dataset(session)
            measured = measure(session, scan)
            profile = summary(session, scan, measured)
        except DataError as error:
            if not (meant := _meant(error)):
                raise
            choices = [one for one in choices if one.key not in {new.key for new in meant}] + meant
        else:
            print_summary(session, profile)
            return choices, session, profile, measured
    raise DataError(
        f"{root} asks for more settings than can be guessed.",
        remedy=f"minivess plan data.root={root}, and follow what it says",
    )


def _meant(error: DataError) -> list[Choice]:
    """The settings of the first way on that an error offers; the others stand in the reason."""
    first = error.remedy.partition(",")[0].partition(" or ")[0]
    words = {key: yaml.safe_load(value) for key, value in SETTING.findall(first)}
    inside = "data.label_map."
    mapping = {int(k.removeprefix(inside)): v for k, v in words.items() if k.startswith(inside)}
    words = {key: value for key, value in words.items() if not key.startswith(inside)}
    words |= {"data.label_map": mapping} if mapping else {}
    reason = f"{error.problem} Ways on: {error.remedy}"
    return [Choice(key, value, reason) for key, value in words.items()]


def _with(session: Session, choices: Sequence[Choice]) -> Session:
    """The session with these choices; what the user states stays."""
    said = [word.partition("=")[0] for word in session.words]
    mine = {one.key: one.value for one in choices if one.key not in said}
    return session.with_config(configs.changed(session.config, mine))


def _training_choices(profile: DatasetProfile, thin: float) -> Iterator[Choice]:
    """Losses that fit the objects, and folds that fit their number."""
    share = sorted(one.foreground_ratio for one in profile.volumes)[profile.n_volumes // 2]
    if thin > THIN:
        losses, why = ["dice_ce", "cbdice_cldice"], (
            f"objects are thin: a centreline {thin:.0f} times as long as they are thick, which "
            "clDice keeps whole; dice_ce is there to compare"
        )  # fmt: skip
    elif share < SMALL_SHARE:
        losses, why = ["dice_ce", "dice_focal"], (
            f"objects are compact and rare: {share:.2%} of a volume; a focal term weighs what is "
            "hard to find, dice_ce is there to compare"
        )  # fmt: skip
    else:
        losses, why = ["dice_ce"], (
            f"objects are compact: a centreline {thin:.0f} times as long as they are thick "
            f"(vessels: more than {THIN:.0f}), so overlap says what matters about them"
        )  # fmt: skip
    yield Choice("training.losses", losses, why)
    units = len({one.group or one.case for one in profile.volumes})
    what = "group" if any(one.group for one in profile.volumes) else "volume"
    if units < FEW:
        yield Choice(
            "training.folds", min(2, units), f"{several(units, what)}: more folds would leave one "
            "or two to validate each",
        )  # fmt: skip


def slenderness(profile: DatasetProfile, measured: Measured) -> float:
    """How many times as long as thick the largest object is, in voxels, as losses see it.

    Median of the volumes looked at; 0 without objects.
    """
    import numpy as np
    from scipy import ndimage

    found = []
    smallest = sorted(profile.volumes, key=lambda one: math.prod(one.shape))[:LOOKED_AT]
    labels = {case.case: case.label for case in measured.cases}
    for stats in smallest:
        path = labels[stats.case]
        if path is None or not stats.components:
            continue
        parts, _ = ndimage.label(volume.read_volume(path).array, np.ones((3, 3, 3)))
        largest = Region(parts == 1 + np.argmax(np.bincount(parts.ravel())[1:]))
        # The surface voxels themselves belong to the object.
        thickness = 1 + 2 * largest.distances(largest.skeleton, (1.0, 1.0, 1.0)).mean()
        found.append(len(largest.skeleton) / thickness)
    return float(np.median(found)) if found else 0.0


# --- what the machine asks for ------------------------------------------------------------


def _cpu_choices(cores: int) -> Iterator[Choice]:
    why = f"no GPU and {several(cores, 'core')}"
    yield Choice("model.filters", [8, 16, 32], f"{why}: a sixty-fourth of the default's weights")
    yield Choice("training.max_epochs", 20, f"{why}; with a GPU leave it out, 100 are the default")
    yield Choice("training.learning_rate", 0.005, "few epochs need large steps")
    yield Choice("training.warmup_epochs", 1, "large steps need a gentle start")


def _forecast(session: Session, profile: DatasetProfile, measured: Measured, hardware: Any) -> str:
    """Hours of the whole grid, and of a loss, as timed here."""
    asked = families(session.config, profile)
    cases = {case.case: case for case in measured.cases}
    grid = GridContext(session, profile, cases, hardware, models={})
    grid.models[asked[0].model.name] = plan_model(session, profile, hardware, asked[0])
    seconds = 3600 * grid.probe(asked).total_hours
    losses = len({family.loss.name for family in asked})
    cells = sum(len(family.cells) for family in asked)
    return (
        f"{several(cells, 'cell')}, about {format_duration(seconds)} on this machine; "
        f"{format_duration(seconds / losses)} for each loss, "
        f"{format_duration(seconds / cells)} for each fold"
    )


# --- the file -----------------------------------------------------------------------------


def _lines(choices: Sequence[Choice], notes: Sequence[str]) -> Iterator[str]:
    """The experiment file; a reason stands above its line."""
    yield "# Made by `minivess init`; every setting with its default: minivess settings"
    yield from (f"# {note}" for note in notes)
    part = ""
    for one in sorted(choices, key=lambda one: one.key.partition(".")[0]):
        first, _, name = one.key.partition(".")
        if first != part:
            yield f"{first}:"
            part = first
        yield f"  # {one.reason}"
        value = yaml.safe_dump(one.value, default_flow_style=True, width=math.inf)
        yield f"  {name}: {value.removesuffix(chr(10)).removesuffix(chr(10) + '...')}"


def _differences(there: dict[str, Any], choices: Sequence[Choice]) -> Iterator[str]:
    """What the file says otherwise than what would be written now."""
    for one in choices:
        part, _, name = one.key.partition(".")
        held = there.get(part, {}).get(name)
        if held != one.value:
            was = "which is not there" if held is None else f"in place of {held}"
            yield f"{one.key}: {one.value}, {was} ({one.reason})"
    for key in sorted({*configs.dotted(there)} - {one.key for one in choices}):
        if key.startswith("data."):
            yield f"{key} is there, and the data as they are do not ask for it"
