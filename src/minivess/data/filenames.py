"""Names of volume files. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path

from minivess.contracts import Case

NIFTI = (".nii.gz", ".nii")
SUFFIXES = (*NIFTI, ".ome.tiff", ".ome.tif", ".tiff", ".tif", ".nrrd", ".mha")


def stem(path: Path) -> str:
    """The file's name without the suffix of its format."""
    for suffix in SUFFIXES:
        if path.name.endswith(suffix):
            return path.name.removesuffix(suffix)
    return path.stem


def suffix(path: Path) -> str:
    """The suffix of its format: `.nii.gz`, `.ome.tif`."""
    return path.name[len(stem(path)) :]


def curated_names(case: Case) -> tuple[str, str]:
    """Image and label of a case, relative to a curated folder."""
    label = case.label or case.image
    return f"images/{case.case}{suffix(case.image)}", f"labels/{case.case}{suffix(label)}"
