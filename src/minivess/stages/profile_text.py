"""Text of a dataset profile: pairs as read, decisions in force, figures and findings."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from minivess import units
from minivess.contracts import DatasetProfile, Pairing
from minivess.review.apply import Reviewed
from minivess.text import first_of, format_shape, several

SHOWN_PAIRS = 5
SHOWN_CASES = 3
SHOWN_ALIKE = 10
CHANGED = {
    "reoriented": "brought onto the grid of their images (flipped or exchanged axes)",
    "label_rounded": "with fractions within 0.001 of whole numbers, which are rounded",
}


def pairing_lines(root: Path, pairing: Pairing) -> Iterator[str]:
    """The first pairs as read, the files left over, and notes."""

    def place(path: Path) -> str:
        return path.relative_to(root).as_posix()

    yield f"  {several(len(pairing.cases), 'pair')}, read as {pairing.layout}:"
    for case in pairing.cases[:SHOWN_PAIRS]:
        label = place(case.label) if case.label else "no label"
        group = f"   group {case.group}" if case.group else ""
        yield f"    {case.case}: {place(case.image)} + {label}{group}"
    if len(pairing.cases) > SHOWN_PAIRS:
        yield f"    ... and {len(pairing.cases) - SHOWN_PAIRS} more"
    for title, paths in (
        ("images without a label", pairing.unpaired_images),
        ("labels without an image", pairing.unpaired_labels),
        ("other files left alone", pairing.left),
    ):
        if paths:
            yield f"  {title}: {first_of([place(path) for path in paths], SHOWN_PAIRS)}"
    yield from (f"  note: {note}" for note in pairing.notes)


def decision_lines(reviewed: Reviewed) -> Iterator[str]:
    """The review decisions that count in this run."""
    for case, decided in reviewed.in_force.items():
        last = reviewed.history[case][-1]
        yield f"  review   {case}: {decided['verdict']} by {last['who']}, {last['why']}"


def summary_lines(profile: DatasetProfile) -> Iterator[str]:
    """Number, size, voxel size, classes and hash of the volumes, and how labels were changed."""
    yield (f"  {extent(profile)}, {len(profile.classes)} classes, data {profile.dataset_hash[:20]}")
    for code, what in CHANGED.items():
        if number := sum(finding.code == code for finding in profile.findings):
            yield f"  labels {what}: {number}"


def warning_lines(profile: DatasetProfile) -> Iterator[str]:
    """Quarantined volumes, and what needs attention: one line a volume, or one for equal ones.

    After some lines of a kind, the other volumes with warnings of that kind are only named.
    """
    if profile.quarantined:
        yield f"  quarantined: {', '.join(profile.quarantined)}"
    of_volume: dict[tuple[str, str, str, str | None], list[str]] = defaultdict(list)
    for one in profile.findings:
        if one.severity != "info":
            of_volume[one.severity, one.code, one.remedy, one.case].append(one.message)
    of_kind: dict[tuple[str, str, str], list[str | None]] = defaultdict(list)
    for (severity, _, remedy, case), messages in of_volume.items():
        of_kind[severity, remedy, " ".join(messages)].append(case)
    alike: dict[tuple[str, str], list[str]] = defaultdict(list)
    shown: Counter[tuple[str, str]] = Counter()
    for (severity, remedy, message), cases in of_kind.items():
        named = [case for case in cases if case]
        where = f"{first_of(named, SHOWN_CASES)}: " if named else ""
        if severity == "warning" and shown[severity, remedy] == SHOWN_CASES:
            alike[severity, remedy] += named
        else:
            shown[severity, remedy] += 1
            yield f"  {severity}: {where}{message} ({remedy})"
    for (severity, remedy), named in alike.items():
        more = several(len(named), "more volume")
        yield f"  {severity}: {more}, {first_of(named, SHOWN_ALIKE)} ({remedy})"


def markdown(profile: DatasetProfile) -> str:
    """The profile for Prefect's page."""
    lines = [
        f"# {profile.dataset}",
        f"{extent(profile)}, classes {list(profile.classes)}, data hash `{profile.dataset_hash}`.",
        "",
        "| severity | code | volume | what | remedy |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {f.severity} | {f.code} | {f.case or 'set'} | {f.message} | {f.remedy} |"
        for f in profile.findings
    ]
    return "\n".join(lines)


def extent(profile: DatasetProfile) -> str:
    """`12 volumes, 49x48x5 to 71x72x24, 0.5 x 0.5 x 2 micron`."""
    shapes = f"{format_shape(profile.min_shape)} to {format_shape(profile.max_shape)}"
    return f"{several(profile.n_volumes, 'volume')}, {shapes}, {voxel_size(profile)}"


def voxel_size(profile: DatasetProfile) -> str:
    """Voxel size and unit, 0.5 x 0.5 x 2 micron, or a range for each unit that occurs."""
    found = []
    for unit in sorted({volume.unit for volume in profile.volumes}):
        sizes = [volume.voxel_spacing for volume in profile.volumes if volume.unit == unit]
        low, high = (tuple(map(edge, zip(*sizes, strict=True))) for edge in (min, max))
        ends = (units.spacing_text(low, "") if low != high else "", units.spacing_text(high, unit))
        found.append(" to ".join(filter(None, ends)))
    return "; ".join(found)
