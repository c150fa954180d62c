"""Demo volumes in a folder: made once, kept while complete."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path
from typing import Any

from minivess import files
from minivess.errors import DataError
from minivess.names import GROUPS_FILE

SUFFIX = ".nii.gz"
MANIFEST = "phantom.json"
RECIPE = 1  # raise it when vessels.py makes other volumes


def make_phantoms(folder: Path, *, n: int, seed: int, like: str = "demo") -> Path:
    """Make `n` volumes with labels in folder/images and folder/labels.

    Those like `two-photon` come in groups of two, which groups.json names.

    The same arguments give the same bytes; a complete folder of the same arguments is kept.

    Raises:
        DataError: the folder holds other files.
    """
    recipe = {"recipe": RECIPE, "n": n, "seed": seed, **({} if like == "demo" else {"like": like})}
    if _complete(folder, recipe):
        return folder
    if folder.exists() and any(folder.iterdir()) and not (folder / MANIFEST).exists():
        raise DataError(
            f"{folder} holds files already, so no demo volumes are written there.",
            remedy="choose an empty folder",
        )
    building = folder.with_name(f".{uuid.uuid4().hex[:8]}-{folder.name}")
    try:
        sizes = {
            name: size
            for index in range(n)
            for name, size in _write(building, index, seed, like).items()
        }
        if like != "demo":
            images = [Path(name).name for name in sizes if name.startswith("images/")]
            groups = {name.removesuffix(SUFFIX): f"animal{n // 2}" for n, name in enumerate(images)}
            files.write_json(building / GROUPS_FILE, groups)
        files.write_json(building / MANIFEST, {**recipe, "files": sizes})
        shutil.rmtree(folder, ignore_errors=True)
        building.replace(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return folder


def _complete(folder: Path, recipe: dict[str, Any]) -> bool:
    if not (folder / MANIFEST).exists():
        return False
    manifest = files.read_json(folder / MANIFEST)
    sizes: dict[str, int] = manifest.pop("files")
    return manifest == recipe and all(
        (folder / name).exists() and (folder / name).stat().st_size == size
        for name, size in sizes.items()
    )


def _write(folder: Path, index: int, seed: int, like: str) -> dict[str, int]:
    import nibabel as nib
    import numpy as np

    from minivess.demo import vessels

    image, label, spacing = vessels.make_vessels(index, seed, like)
    name = f"phantom{index:02d}_z{image.shape[2]:02d}{SUFFIX}"
    sizes = {}
    for part, array in (("images", image), ("labels", label)):
        nifti = nib.Nifti1Image(array, np.diag([*spacing, 1.0]))
        nifti.header.set_xyzt_units(xyz="micron")
        (folder / part).mkdir(parents=True, exist_ok=True)
        nib.save(nifti, folder / part / name)
        sizes[f"{part}/{name}"] = (folder / part / name).stat().st_size
    return sizes
