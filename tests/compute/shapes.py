"""Datasets known by the shapes of their volumes."""

from __future__ import annotations

from collections.abc import Sequence

from minivess.contracts import DatasetProfile, Shape, VolumeStats


def profile_of(
    shapes: Sequence[Shape], spacing: tuple[float, float, float] = (1, 1, 1)
) -> DatasetProfile:
    """A profile whose volumes are called v0, v1, ..."""
    volumes = tuple(stats(f"v{i}", shape, spacing) for i, shape in enumerate(shapes))
    axes = [sorted(axis) for axis in zip(*shapes, strict=True)]
    return DatasetProfile(
        dataset="test", dataset_path="/test", dataset_hash="0.dir", curated="dvc/test",
        dvc_file="dvc/test.dvc", remote=None, n_volumes=len(volumes),
        min_shape=tuple(axis[0] for axis in axes), max_shape=tuple(axis[-1] for axis in axes),
        median_shape=tuple(axis[len(axis) // 2] for axis in axes),
        spacing_range=(spacing, spacing), is_anisotropic=False, total_size_gb=0.1,
        per_volume_mean_gb=0.01, outliers=(), warnings=(), classes=(0, 1), label_map={},
        volumes=volumes, findings=(),
    )  # fmt: skip


def stats(case: str, shape: Shape, spacing: tuple[float, float, float]) -> VolumeStats:
    """The numbers of one volume; only its shape and spacing matter here."""
    return VolumeStats(
        case=case, filename=f"images/{case}.nii.gz", label_filename=f"labels/{case}.nii.gz",
        group=None, shape=shape, voxel_spacing=spacing, unit="micron", dtype="uint16",
        intensity_min=0, intensity_max=1, intensity_mean=0, intensity_std=1, percentiles={},
        foreground_ratio=0.1, label_values=(0, 1), components=1, size_bytes=1, content_hash=case,
    )  # fmt: skip
