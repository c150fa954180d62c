"""Statistics of one volume at native resolution, from one reading of its files."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np

from minivess import files, keys
from minivess.config import DataConfig
from minivess.contracts import IGNORED, Case, Finding, LabelMap, VolumeStats
from minivess.data.checks import finding, is_final
from minivess.data.profiling import quality
from minivess.data.profiling.duplicates import signature
from minivess.data.profiling.grids import align_label, with_stated_spacing
from minivess.data.profiling.intensities import present_values, sort_values
from minivess.data.versions.curated import converted_file, curated_case
from minivess.errors import DataError, MinivessError
from minivess.formats.filenames import NIFTI, curated_names, stem, suffix
from minivess.formats.volume import (
    Array,
    DimensionsError,
    Volume,
    classes_of,
    read_volume,
    whole_numbers,
    write_volume,
)


class Measurement(NamedTuple):
    """One volume in numbers, its findings, its signature, and its files as they are curated.

    `stats` is None if no decision of a reviewer can make the volume usable.
    """

    stats: VolumeStats | None
    findings: list[Finding]
    signature: str
    case: Case

    @property
    def written(self) -> dict[Path, str]:
        """The files that were written to be curated, with their md5."""
        converted = self.stats.converted if self.stats else {}
        return {cast(Path, getattr(self.case, role)): md5 for role, md5 in converted.items()}


def measure(
    case: Case,
    *,
    config: DataConfig,
    hashes: Sequence[str] | None = None,
    store: Path | None = None,
) -> Measurement:
    """Measure one volume at native resolution.

    Args:
        hashes: the md5 of image and label, if they are known already.
        store: folder for what cannot be curated as it lies in the data folder.
    """
    try:
        return _measure(case, config, hashes, store)
    except DataError as error:
        failure = error
    except Exception as error:  # libraries raise what they like about odd voxels
        if isinstance(error, MinivessError | OSError):  # a full disk: reading is translated
            raise
        why = f"{type(error).__name__}: {error}"
        failure = DataError(
            f"{case.image} and {case.label} cannot be measured ({why}).",
            remedy="replace the files or remove them",
        )
    found = finding(failure.code, failure.problem, case=case.case, remedy=failure.remedy)
    return Measurement(None, [found], "", case)


def _label(path: Path) -> Volume:
    """Read a label.

    Raises:
        DataError: it cannot be read; one-hot labels are named as what they are.
    """
    try:
        return read_volume(path)
    except DimensionsError as error:
        if len(error.shape) != 4 or suffix(path) not in NIFTI:
            raise
        whole = path.with_name(f"{stem(path)}.nii.gz")
        program = (
            f"import nibabel as n; f = n.load({str(path)!r}); "
            "a = f.get_fdata().argmax(-1).astype('uint8'); "
            f"n.save(n.Nifti1Image(a, f.affine, f.header), {whole.name!r})"
        )
        raise DimensionsError(
            f"The label {path} has {error.shape[3]} channels {error.shape}, as one-hot labels "
            "have; a label holds one class number for each voxel.",
            remedy="store class numbers. Where the first channel is background, this writes them "
            f"into the working folder: {shlex.quote(sys.executable)} -c {shlex.quote(program)}",
        ) from error


def _measure(
    case: Case, config: DataConfig, hashes: Sequence[str] | None, store: Path | None
) -> Measurement:
    path, ignores = cast(Path, case.label), IGNORED in config.labels.values()
    # The label comes first: what counting its pieces takes is free again before the image.
    label = _label(path)
    classes = classes_of(label.array, path, config.labels)
    pieces = foreground(classes, ignores=ignores)
    stored = read_volume(case.image)
    image = with_stated_spacing(stored, config)
    values = sort_values(image.array)
    findings = quality.check(
        case.case, image, label, classes, values, ignores=ignores, stored=stored
    )
    if any(map(is_final, findings)):
        return Measurement(None, findings, "", case)
    converted = _convert(image, label, align_label(label, stored), store)
    kept = curated_case(case, converted, store or Path())
    filename, label_filename = curated_names(kept)
    stats = VolumeStats(
        case=case.case,
        filename=filename,
        label_filename=label_filename,
        group=case.group,
        shape=image.shape,
        voxel_spacing=image.spacing,
        unit=image.unit,
        dtype=str(image.array.dtype),
        size_bytes=case.image.stat().st_size + path.stat().st_size,
        content_hash=keys.digest(list(hashes or (files.md5(case.image), files.md5(path)))),
        converted=converted,
        mapped=_mapped(whole_numbers(label.array, path), config.labels),
        **values.numbers(),
        **pieces,
    )
    return Measurement(stats, findings, signature(image.array), kept)


def _convert(
    image: Volume, label: Volume, turned: Volume, store: Path | None
) -> dict[Literal["image", "label"], str]:
    """Write what is curated in another form: a turned label, a stated voxel size, several files.

    The curated set then holds the volume as it was measured.
    """
    wanted: dict[Literal["image", "label"], Volume] = {}
    if not image.alone:
        wanted["image"] = image
    if turned is not label or not label.alone:
        wanted["label"] = replace(image, array=turned.array)
    return {
        role: files.md5(write_volume(converted_file(store, role), volume))
        for role, volume in wanted.items()
        if store is not None
    }


def _mapped(values: Array, label_map: LabelMap) -> tuple[int | str, ...]:
    """Return the keys of the label map that a label holds; one that none holds is a mistake."""
    return tuple(old for old in label_map if old == "*" or (values == old).any())


def foreground(classes: Array, *, ignores: bool = False) -> dict[str, Any]:
    """Return values, share of foreground and connected components of a label (X, Y, Z)."""
    import cc3d

    values, judged = present_values(classes), classes.size
    if ignores:
        values = tuple(value for value in values if value != IGNORED)
        judged = max(int(np.count_nonzero(classes != IGNORED)), 1)
        classes = np.where(classes == IGNORED, 0, classes)
    # What has no negative values may be counted as it is.
    mask = classes if classes.min() >= 0 else classes != 0
    _, components = cc3d.connected_components(
        mask, connectivity=26, return_N=True, binary_image=True
    )
    share = float(np.count_nonzero(mask) / judged)
    return {
        "label_values": values,
        "foreground_ratio": share,
        "commonest": _commonest(classes) if 2 * share > 1 else 0,
        "components": int(components),
    }


def _commonest(classes: Array) -> int:
    """Return the most frequent value."""
    found, counts = np.unique(classes, return_counts=True)
    return int(found[counts.argmax()])
