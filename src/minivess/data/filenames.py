"""Names of volume files. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path

from minivess.contracts import Case

SUFFIXES = (".nii.gz", ".nii")


def stem(path: Path) -> str:
    """The file's name without .nii or .nii.gz."""
    for suffix in SUFFIXES:
        if path.name.endswith(suffix):
            return path.name.removesuffix(suffix)
    return path.stem


def suffix(path: Path) -> str:
    """`.nii.gz` or `.nii`."""
    return path.name[len(stem(path)) :]


def curated_names(case: Case) -> tuple[str, str]:
    """Image and label of a case, relative to a curated folder."""
    label = case.label or case.image
    return f"images/{case.case}{suffix(case.image)}", f"labels/{case.case}{suffix(label)}"
