"""Names of volume files, and what other files are called. Imports nothing heavy."""

from __future__ import annotations

import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from minivess.contracts import Case

NIFTI = (".nii.gz", ".nii")
SUFFIXES = (*NIFTI, ".ome.tiff", ".ome.tif", ".tiff", ".tif", ".nrrd", ".mha", ".hdr")

_EXPORT = "export OME-TIFF, for example in Fiji, or with `bfconvert IN OUT.ome.tif`"
_ARRAY = "write each array with its voxel size, as .nii.gz (nibabel) or as OME-TIFF (tifffile)"
_DICOM = "convert each series: `dcm2niix -z y -o OUT FOLDER`"
_STACK = "stack the slices of each volume into one TIFF, NRRD or NIfTI file"
_ANNEX = "fetch it: `datalad get .`, or `git annex get .`, in that folder"
_UNPACK = "unpack it"
_ONE_FILE = "save header and voxels in one file, .mha or .nrrd, for example with SimpleITK"
_MAKERS = {
    "Zeiss": (".czi", ".lsm"),
    "Leica": (".lif", ".scn"),
    "Nikon": (".nd2",),
    "Imaris": (".ims",),
    "Olympus": (".vsi", ".oib", ".oif", ".oir"),
    "Hamamatsu": (".ndpi",),
    "Aperio": (".svs",),
    "Metamorph": (".stk",),
    "DeltaVision": (".dv",),
    "MRC": (".mrc", ".rec"),
}
# Ending -> what such a file is, and how it becomes one that is read.
UNREAD: Mapping[str, tuple[str, str]] = {
    **{end: (f"{maker} {end}", _EXPORT) for maker, ends in _MAKERS.items() for end in ends},
    **dict.fromkeys((".zarr", ".n5"), ("Zarr or N5 (chunks in a folder)", _EXPORT)),
    **dict.fromkeys((".h5", ".hdf5", ".he5"), ("HDF5", _ARRAY)),
    **dict.fromkeys((".npy", ".npz", ".mat", ".pt", ".raw"), ("an array without a header", _ARRAY)),
    **dict.fromkeys((".dcm", ".ima", ".dicom"), ("DICOM", _DICOM)),
    **dict.fromkeys((".mgz", ".mgh"), ("FreeSurfer's format", "`mri_convert IN OUT.nii.gz`")),
    ".mnc": ("MINC", "`mnc2nii IN OUT.nii`"),
    **dict.fromkeys((".mhd", ".nhdr"), ("a header with its voxels in another file", _ONE_FILE)),
    ".img": ("voxels without their header .hdr", "put the .hdr file beside it"),
    **dict.fromkeys((".vtk", ".vti"), ("VTK", _ONE_FILE)),
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".bmp"), ("a two-dimensional picture", _STACK)),
    **dict.fromkeys((".zip", ".tar", ".tgz", ".gz", ".7z", ".rar"), ("packed", _UNPACK)),
}
PASSED_OVER = frozenset({UNREAD[".png"][0], UNREAD[".zip"][0]})  # lie about everywhere


def is_volume(path: Path) -> bool:
    """Whether a name ends as those of volumes do, in letters of either case."""
    return suffix(path) in SUFFIXES and not path.name.startswith(("~$", "."))


def stem(path: Path) -> str:
    """The file's name without the suffix of its format; one spelling for accented letters."""
    name = unicodedata.normalize("NFC", path.name)
    ending = next((end for end in SUFFIXES if name.lower().endswith(end)), Path(name).suffix)
    return name[: len(name) - len(ending)]


def suffix(path: Path) -> str:
    """The suffix of its format in small letters: `.nii.gz`, `.ome.tif`."""
    return unicodedata.normalize("NFC", path.name)[len(stem(path)) :].lower()


def unread(path: Path) -> tuple[str, str] | None:
    """What a file is that no reader takes, and how it becomes one; None for what says nothing."""
    if path.is_symlink() and not path.exists():
        annexed = "/annex/objects/" in os.readlink(path)
        return ("a git-annex link without its content", _ANNEX) if annexed else None
    if is_volume(path) or len(parts(path)) > 1:
        return None
    known = UNREAD.get(path.suffix.lower())
    if known is None and path.is_file() and os.access(path, os.R_OK):
        with path.open("rb") as stream:
            known = UNREAD[".dcm"] if stream.read(132)[128:] == b"DICM" else None
    return known


def unread_kinds(paths: Iterable[Path]) -> list[tuple[str, str, list[Path]]]:
    """What is there and not read, with its remedy and its files; the most frequent first."""
    kinds: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for path in paths:
        if kind := unread(path):
            kinds[kind].append(path)
    return sorted(((*kind, of) for kind, of in kinds.items()), key=lambda kind: -len(kind[2]))


def curated_names(case: Case) -> tuple[str, str]:
    """Image and label of a case, relative to a curated folder."""
    label = case.label or case.image
    return f"images/{case.case}{suffix(case.image)}", f"labels/{case.case}{suffix(label)}"


def parts(path: Path) -> tuple[Path, ...]:
    """The files that make a volume, itself first: a pair of `.hdr` and `.img`, and the JSON file
    beside a TIFF in which nnU-Net wants the voxel size.
    """
    ending, plain = path.suffix.lower(), path.with_suffix("")
    beside: list[Path] = []
    if ending in (".hdr", ".img"):
        other = ".img" if ending == ".hdr" else ".hdr"
        beside = [plain.with_name(plain.name + each) for each in (other, other.upper())]
    elif ending in (".tif", ".tiff"):
        names = dict.fromkeys((stem(path), stem(path).removesuffix("_0000")))
        beside = [path.with_name(f"{name}.json") for name in names]
    return path, *[each for each in beside if each.is_file()][:1]
