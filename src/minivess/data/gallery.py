"""What a human looks at: one page with every volume and its label, and plots of the set."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from jinja2 import Environment
from PIL import Image

from minivess import files
from minivess.contracts import Case, DatasetProfile, VolumeStats
from minivess.data.volume import Array, read, relabel, whole

Pixels = npt.NDArray[np.uint8]

TEMPLATE = Path(__file__).with_name("gallery.html.j2")
PANEL = 220  # pixels along the longer side of a panel
TINT, EDGE = 0.2, 0.9  # shares of the class colour
COLOURS = np.array(
    [(255, 90, 60), (60, 170, 255), (90, 220, 110), (240, 200, 40), (200, 110, 255)],
    dtype=np.float64,
)
VIEWS = ("axial", "coronal", "sagittal", "maximum")


def render(profile: DatasetProfile, cases: Sequence[Case], path: Path) -> Path:
    """Write one self-contained page: slices and a projection of each volume, and its findings."""
    by_case = {volume.case: volume for volume in profile.volumes}
    cards = [
        {
            "volume": by_case[case.case],
            "views": dict(
                zip(VIEWS, _views(case, by_case[case.case], profile.label_map), strict=True)
            ),
            "findings": [f for f in profile.findings if f.case == case.case],
        }
        for case in cases
        if case.case in by_case
    ]
    page = Environment(autoescape=True, trim_blocks=True).from_string(TEMPLATE.read_text("utf-8"))
    text = page.render(
        profile=profile,
        cards=cards,
        others=[f for f in profile.findings if f.case not in by_case],
        colours=_legend(profile.classes),
    )
    return files.write_text(path, text)


def plots(profile: DatasetProfile, folder: Path) -> list[Path]:
    """Write the figures shapes.png, intensities.png, foreground.png and spacings.png."""
    drawings = {
        "shapes": _draw_shapes,
        "spacings": _draw_spacings,
        "intensities": _draw_intensities,
        "foreground": _draw_foreground,
    }
    return [_figure(profile, draw, folder / f"{name}.png") for name, draw in drawings.items()]


# --- panels -------------------------------------------------------------------------------


def _views(case: Case, stats: VolumeStats, label_map: dict[int, int]) -> list[str]:
    """Data addresses of four panels; slices go through the middle of the label."""
    image, label_path = read(case.image).array, cast(Path, case.label)
    label = relabel(whole(read(label_path).array, label_path), label_map)
    x, y, z = _middle(label)
    dx, dy, dz = (max(step, 1e-9) for step in stats.voxel_spacing)
    panels = (
        (image[:, :, z], label[:, :, z], dy / dx),
        (image[:, y, :], label[:, y, :], dz / dx),
        (image[x, :, :], label[x, :, :], dz / dy),
        (image.max(axis=2), label.max(axis=2), dy / dx),
    )
    low, high = stats.percentiles["0.5"], stats.percentiles["99.5"]
    return [
        _address(_panel((plane.astype(np.float64) - low) / max(high - low, 1e-9), mask), aspect)
        for plane, mask, aspect in panels
    ]


def _middle(label: Array) -> tuple[int, int, int]:
    """The slice of each axis with most foreground."""
    foreground = label != 0
    others = ((1, 2), (0, 2), (0, 1))
    x, y, z = (int(np.argmax(foreground.sum(axis=axes))) for axes in others)
    return x, y, z


def _panel(image: Array, mask: Array) -> Pixels:
    """Grey (A, B), 0 to 1, and classes (A, B) -> colours (B, A, 3): the first axis runs right.

    Foreground is tinted, its edge drawn.
    """
    pixels = np.repeat(np.clip(image, 0, 1)[..., np.newaxis], 3, axis=2) * 255
    colours = COLOURS[(mask.astype(np.int64) - 1) % len(COLOURS)]
    weight = np.where(_edge(mask), EDGE, np.where(mask != 0, TINT, 0.0))[..., np.newaxis]
    mixed = (1 - weight) * pixels + weight * colours
    return np.asarray(mixed.transpose(1, 0, 2), dtype=np.uint8)


def _edge(mask: Array) -> npt.NDArray[np.bool_]:
    """Foreground pixels with a neighbour of another class."""
    around = np.pad(mask, 1, mode="edge")
    neighbours = (around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:])
    differs = np.any([neighbour != mask for neighbour in neighbours], axis=0)
    return np.asarray(differs & (mask != 0))


def _address(pixels: Pixels, aspect: float) -> str:
    """A JPEG data address, scaled so that both axes have the same physical scale."""
    height, width = pixels.shape[0] * aspect, float(pixels.shape[1])
    scale = PANEL / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST).save(buffer, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _legend(classes: Sequence[int]) -> list[tuple[int, str]]:
    return [
        (value, "#" + "".join(f"{int(part):02x}" for part in COLOURS[(value - 1) % len(COLOURS)]))
        for value in classes
        if value != 0
    ]


# --- plots --------------------------------------------------------------------------------


def _figure(profile: DatasetProfile, draw: Any, path: Path) -> Path:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    draw(figure.subplots(), profile.volumes, profile)
    return files.write(path, lambda temporary: figure.savefig(temporary, dpi=120))


def _draw_shapes(axes: Any, volumes: Sequence[VolumeStats], profile: DatasetProfile) -> None:
    for axis, letter in enumerate("xyz"):
        axes.plot([v.shape[axis] for v in volumes], "o-", label=letter, markersize=4)
    _label(axes, volumes, f"{profile.dataset}: shapes", "voxels")
    axes.legend()


def _draw_spacings(axes: Any, volumes: Sequence[VolumeStats], profile: DatasetProfile) -> None:
    for axis, letter in enumerate("xyz"):
        axes.plot([v.voxel_spacing[axis] for v in volumes], "o-", label=letter, markersize=4)
    units = ", ".join(sorted({volume.unit for volume in volumes}))
    _label(axes, volumes, f"{profile.dataset}: voxel size", units)
    axes.legend()


def _draw_intensities(axes: Any, volumes: Sequence[VolumeStats], profile: DatasetProfile) -> None:
    """Ranges from the 0.5 to the 99.5 percentile, quartiles as boxes."""
    boxes = [
        {
            "whislo": v.percentiles["0.5"],
            "q1": v.percentiles["25"],
            "med": v.percentiles["50"],
            "q3": v.percentiles["75"],
            "whishi": v.percentiles["99.5"],
        }
        for v in volumes
    ]
    axes.bxp(boxes, positions=range(len(boxes)), showfliers=False)
    _label(axes, volumes, f"{profile.dataset}: intensities", "raw value, 0.5 to 99.5 %")


def _draw_foreground(axes: Any, volumes: Sequence[VolumeStats], profile: DatasetProfile) -> None:
    axes.bar(range(len(volumes)), [100 * v.foreground_ratio for v in volumes])
    _label(axes, volumes, f"{profile.dataset}: foreground", "% of voxels")


def _label(axes: Any, volumes: Sequence[VolumeStats], title: str, unit: str) -> None:
    axes.set_title(title)
    axes.set_ylabel(unit)
    if len(volumes) <= 40:
        axes.set_xticks(range(len(volumes)), [v.case for v in volumes], rotation=90, fontsize=7)
    else:
        axes.set_xticks([])
        axes.set_xlabel(f"{len(volumes)} volumes")
