"""What flow 1 says: the pairs as read, decisions that count, what was found."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from minivess import units
from minivess.contracts import DatasetProfile, Pairing
from minivess.orchestration.session import Session

if TYPE_CHECKING:
    from minivess.data.review.apply import Reviewed

SHOWN_PAIRS = 5
CHANGED = {
    "reoriented": "brought onto the grid of their images (flipped or exchanged axes)",
    "label_rounded": "with fractions within 0.001 of whole numbers, which are rounded",
}


def show(session: Session, root: Path, pairing: Pairing) -> None:
    """The first pairs as read, and what was left over."""

    def place(path: Path) -> str:
        return path.relative_to(root).as_posix()

    session.say(f"  {len(pairing.cases)} pairs, read as {pairing.layout}:")
    for case in pairing.cases[:SHOWN_PAIRS]:
        label = place(case.label) if case.label else "no label"
        group = f"   group {case.group}" if case.group else ""
        session.say(f"    {case.case}: {place(case.image)} + {label}{group}")
    if len(pairing.cases) > SHOWN_PAIRS:
        session.say(f"    ... and {len(pairing.cases) - SHOWN_PAIRS} more")
    for title, paths in (
        ("images without a label", pairing.unpaired_images),
        ("labels without an image", pairing.unpaired_labels),
        ("other files left alone", pairing.left),
    ):
        if paths:
            listed = ", ".join(place(path) for path in paths[:SHOWN_PAIRS])
            more = f" and {len(paths) - SHOWN_PAIRS} more" if len(paths) > SHOWN_PAIRS else ""
            session.say(f"  {title}: {listed}{more}")
    for note in pairing.notes:
        session.say(f"  note: {note}")


def say_decided(session: Session, reviewed: Reviewed) -> None:
    """Which decisions count in this run."""
    for case, decided in reviewed.in_force.items():
        last = reviewed.history[case][-1]
        session.say(f"  review   {case}: {decided['verdict']} by {last['who']}, {last['why']}")


def tell(session: Session, profile: DatasetProfile) -> None:
    """What the profile found, in a few lines."""
    session.say(
        f"  {profile.n_volumes} volumes, {size(profile.min_shape)} to {size(profile.max_shape)}, "
        f"{voxel_size(profile)}, {len(profile.classes)} classes, data {profile.dataset_hash[:20]}"
    )
    for code, what in CHANGED.items():
        if number := sum(finding.code == code for finding in profile.findings):
            session.say(f"  labels {what}: {number}")
    if profile.quarantined:
        session.say(f"  quarantined: {', '.join(profile.quarantined)}", warning="data")
    for finding in profile.findings:
        if finding.severity != "info":
            where = f"{finding.case}: " if finding.case else ""
            session.say(
                f"  {finding.severity}: {where}{finding.message} ({finding.remedy})",
                warning="data",
            )


def markdown(profile: DatasetProfile) -> str:
    """The profile for Prefect's page."""
    lines = [
        f"# {profile.dataset}",
        f"{profile.n_volumes} volumes, {size(profile.min_shape)} to {size(profile.max_shape)}, "
        f"{voxel_size(profile)}, "
        f"classes {list(profile.classes)}, data hash `{profile.dataset_hash}`.",
        "",
        "| severity | code | volume | what | remedy |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {f.severity} | {f.code} | {f.case or 'set'} | {f.message} | {f.remedy} |"
        for f in profile.findings
    ]
    return "\n".join(lines)


def voxel_size(profile: DatasetProfile) -> str:
    """Voxel size and unit, 0.5 x 0.5 x 2 micron, or a range for each unit that occurs."""
    found = []
    for unit in sorted({volume.unit for volume in profile.volumes}):
        sizes = [volume.voxel_spacing for volume in profile.volumes if volume.unit == unit]
        low, high = (tuple(map(edge, zip(*sizes, strict=True))) for edge in (min, max))
        ends = (units.written(low, "") if low != high else "", units.written(high, unit))
        found.append(" to ".join(filter(None, ends)))
    return "; ".join(found)


def size(shape: tuple[int, ...]) -> str:
    """A shape as people write it: 64x64x5."""
    return "x".join(map(str, shape))
