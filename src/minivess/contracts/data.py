"""What flow 1 finds in a folder and hands on."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from minivess.contracts.record import Contract, Severity, Shape, Spacing, Versioned

IGNORED = 255
"""Value of voxels without annotation in labels and class indices; no class has it."""
LabelMap = dict[int | Literal["*"], int]
"""Label value in the files -> class, or IGNORED; `*` is every other value but 0."""


class Finding(Contract):
    """One thing that a check noticed about one volume or about the whole set."""

    code: str
    severity: Severity
    case: str | None
    message: str
    remedy: str


class Case(Contract):
    """One image with its label, as files that can be opened now."""

    case: str
    image: Path
    label: Path | None
    group: str | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """Image and, if there is one, label."""
        return (self.image,) if self.label is None else (self.image, self.label)


class Pairing(Contract):
    """How the files of a folder were read, and what was left over."""

    layout: str = Field(description="images-labels, msd, nnunet, bids, suffix or pattern")
    cases: tuple[Case, ...]
    unpaired_images: tuple[Path, ...] = ()
    unpaired_labels: tuple[Path, ...] = ()
    left: tuple[Path, ...] = Field(default=(), description="files that no rule read")
    ignored: int | None = Field(default=None, description="label value that dataset.json ignores")
    notes: tuple[str, ...] = Field(
        default=(), description="what the user should know, a sentence each"
    )
    findings: tuple[Finding, ...] = ()


class VolumeStats(Contract):
    """One volume in numbers, taken from its bytes; intensities are raw values."""

    case: str
    filename: str = Field(description="image, relative to the curated folder")
    label_filename: str
    group: str | None
    shape: Shape
    voxel_spacing: Spacing = Field(description="raw header values, in `unit`")
    unit: str
    dtype: str
    intensity_min: float
    intensity_max: float
    intensity_mean: float
    intensity_std: float
    percentiles: dict[str, float] = Field(description="keys: 0.5 5 25 50 75 95 99.5")
    foreground_ratio: float
    label_values: tuple[int, ...]
    commonest: int = Field(
        default=0, description="most frequent value where foreground is more than half, else 0"
    )
    mapped: tuple[int | str, ...] = Field(default=(), description="keys of the label map it holds")
    components: int = Field(description="26-connected components of the foreground")
    size_bytes: int = Field(description="image and label files together")
    content_hash: str = Field(description="hash of the image's and the label's bytes")
    converted: dict[Literal["image", "label"], str] = Field(
        default={},
        description="whose curated file is written by us (turned, stated, of parts), with its md5",
    )


class DatasetProfile(Versioned):
    """The dataset in numbers, after quarantine."""

    run_id: str | None = Field(default=None, description="MLflow run that holds this profile")
    dataset: str
    dataset_path: str = Field(description="where the originals lie")
    dataset_hash: str = Field(description="the md5 that DVC gives the curated folder, ends in .dir")
    curated: str = Field(description="curated folder, relative to home")
    dvc_file: str = Field(description="its .dvc file, relative to home")
    remote: str | None = Field(description="DVC remote that holds this version, if any")
    n_volumes: int
    min_shape: Shape
    max_shape: Shape
    median_shape: Shape
    spacing_range: tuple[Spacing, Spacing]
    is_anisotropic: bool
    total_size_gb: float = Field(description="as float32, image only")
    per_volume_mean_gb: float
    safe_patch_sizes: dict[str, Shape] = Field(default={})
    outliers: tuple[str, ...]
    warnings: tuple[str, ...]
    classes: tuple[int, ...] = Field(
        description="label values after the label map, with background 0"
    )
    label_map: LabelMap
    volumes: tuple[VolumeStats, ...]
    findings: tuple[Finding, ...]
    quarantined: tuple[str, ...] = ()

    @property
    def out_channels(self) -> int:
        """Classes, background included."""
        return len(self.classes)

    @property
    def mapped(self) -> str:
        """The label map in words."""
        words = {
            "every other" if old == "*" else str(old): "ignored" if new == IGNORED else f"to {new}"
            for old, new in self.label_map.items()
        }
        return ", ".join(f"{old} {new}" for old, new in words.items()) or "none"


class Fold(Contract):
    """One way to cut the set: case ids that train, and case ids that validate."""

    index: int
    train: tuple[str, ...]
    val: tuple[str, ...]


class Split(Versioned):
    """All folds of one seed; `test` is held out of every fold."""

    seed: int
    grouped: bool
    folds: tuple[Fold, ...]
    test: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
