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

PANEL = 220  # pixels along the longer side of a panel
OVERLAY = 0.45
COLOURS = np.array(
    [(255, 90, 60), (60, 170, 255), (90, 220, 110), (240, 200, 40), (200, 110, 255)],
    dtype=np.float64,
)
VIEWS = ("axial", "coronal", "sagittal", "maximum")


def render(profile: DatasetProfile, cases: Sequence[Case], path: Path) -> Path:
    """Write one self-contained page: three slices and a projection of each volume, with findings."""
    by_case = {volume.case: volume for volume in profile.volumes}
    cards = [
        {
            "volume": by_case[case.case],
            "views": dict(zip(VIEWS, _views(case, profile.label_map), strict=True)),
            "findings": [f for f in profile.findings if f.case == case.case],
        }
        for case in cases
        if case.case in by_case
    ]
    page = Environment(autoescape=True, trim_blocks=True).from_string(PAGE)
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


def _views(case: Case, label_map: dict[int, int]) -> list[str]:
    """Data addresses of four panels; slices go through the middle of the label."""
    volume = read(case.image)
    label_path = cast(Path, case.label)
    label = relabel(whole(read(label_path).array, label_path), label_map)
    low, high = np.percentile(volume.array, (0.5, 99.5))
    grey = np.clip((volume.array - low) / max(float(high - low), 1e-9), 0, 1)
    x, y, z = _middle(label)
    dx, dy, dz = (max(step, 1e-9) for step in volume.spacing)
    panels = (
        (grey[:, :, z], label[:, :, z], dy / dx),
        (grey[:, y, :], label[:, y, :], dz / dx),
        (grey[x, :, :], label[x, :, :], dz / dy),
        (grey.max(axis=2), label.max(axis=2), dy / dx),
    )
    return [_address(_panel(image, mask), aspect) for image, mask, aspect in panels]


def _middle(label: Array) -> tuple[int, int, int]:
    """The slice of each axis with most foreground."""
    foreground = label != 0
    others = ((1, 2), (0, 2), (0, 1))
    x, y, z = (int(np.argmax(foreground.sum(axis=axes))) for axes in others)
    return x, y, z


def _panel(image: Array, mask: Array) -> Pixels:
    """Grey (A, B) in 0..1 and classes (A, B) -> colours (B, A, 3): the first axis runs right."""
    pixels = np.repeat(image[..., np.newaxis], 3, axis=2) * 255
    colours = COLOURS[(mask.astype(np.int64) - 1) % len(COLOURS)]
    mixed = np.where(
        (mask != 0)[..., np.newaxis], (1 - OVERLAY) * pixels + OVERLAY * colours, pixels
    )
    return mixed.astype(np.uint8).transpose(1, 0, 2)


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


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ profile.dataset }}: {{ profile.n_volumes }} volumes</title>
<style>
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1080px; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: 0; } code { font-size: .9em; overflow-wrap: anywhere; }
table { border-collapse: collapse; } td, th { padding: .2rem .8rem .2rem 0; text-align: left; vertical-align: top; }
.card { border-top: 1px solid var(--line); padding: 1rem 0; }
.views { display: flex; flex-wrap: wrap; gap: .8rem; align-items: flex-start; }
figure { margin: 0; } figcaption { font-size: .8rem; opacity: .7; }
img { background: #000; display: block; }
.error, .warning, .info { border-left: 4px solid; padding: .2rem .7rem; margin: .3rem 0; background: var(--soft); }
.error { border-color: #d33; } .warning { border-color: #e90; } .info { border-color: #38c; }
.key { display: inline-block; width: .8em; height: .8em; margin: 0 .3em 0 1em; }
</style></head><body>
<h1>{{ profile.dataset }}</h1>
<p><code>{{ profile.dataset_path }}</code></p>
<table>
<tr><th>Volumes</th><td>{{ profile.n_volumes }}{% if profile.quarantined %}, left out: {{ profile.quarantined|join(", ") }}{% endif %}</td></tr>
<tr><th>Shapes</th><td>{{ profile.min_shape|join(" × ") }} to {{ profile.max_shape|join(" × ") }}, median {{ profile.median_shape|join(" × ") }}</td></tr>
<tr><th>Memory</th><td>{{ "%.3g"|format(profile.total_size_gb) }} GiB as float32</td></tr>
<tr><th>Classes</th><td>{{ profile.classes|join(", ") }}{% for value, colour in colours %}<span class="key" style="background: {{ colour }}"></span>{{ value }}{% endfor %}</td></tr>
<tr><th>Version</th><td><code>{{ profile.dataset_hash }}</code></td></tr>
</table>
{% for finding in others %}
<p class="{{ finding.severity }}"><b>{{ finding.case or profile.dataset }}: {{ finding.code }}</b> {{ finding.message }} <i>{{ finding.remedy }}</i></p>
{% endfor %}
{% for card in cards %}
{% set volume = card.volume %}
<section class="card" id="{{ volume.case }}">
<h2>{{ volume.case }}</h2>
<p>{{ volume.shape|join(" × ") }} voxels of {% for step in volume.voxel_spacing %}{{ "%.4g"|format(step) }}{% if not loop.last %} × {% endif %}{% endfor %} {{ volume.unit }},
{{ volume.dtype }} {{ "%g"|format(volume.intensity_min) }} to {{ "%g"|format(volume.intensity_max) }},
foreground {{ "%.2f"|format(100 * volume.foreground_ratio) }} % in {{ volume.components }} parts{% if volume.group %}, group {{ volume.group }}{% endif %}</p>
{% for finding in card.findings %}
<p class="{{ finding.severity }}"><b>{{ finding.code }}</b> {{ finding.message }} <i>{{ finding.remedy }}</i></p>
{% endfor %}
<div class="views">
{% for name, address in card.views.items() %}
<figure><img src="{{ address }}" alt="{{ name }} view of {{ volume.case }}"><figcaption>{{ name }}</figcaption></figure>
{% endfor %}
</div></section>
{% endfor %}
</body></html>
"""
