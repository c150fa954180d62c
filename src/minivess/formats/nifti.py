"""NIfTI in one file or a pair, and Analyze: in the dtype stored, float32 if values are scaled."""

from __future__ import annotations

import gzip
import logging
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from minivess import files, units
from minivess.errors import DataError
from minivess.formats import decode
from minivess.formats.decode import Array, Remarks, Volume, file_error
from minivess.formats.filenames import volume_files

FIRST, SECOND = 348, 540  # bytes of the headers of NIfTI-1 and NIfTI-2
HEADER_ERRORS = (nib.spatialimages.HeaderDataError, ValueError, KeyError, OverflowError)
TOLERANCE = 1e-3  # of a voxel; headers jitter in the last digits of float32
Affine = npt.NDArray[np.float64]
log = logging.getLogger(__name__)


def read(path: Path) -> Volume:
    """Read a `.nii`, a `.nii.gz`, or the two files `.hdr` and `.img` of a volume."""
    packing = "gzip" if path.name.lower().endswith(".gz") else "raw"
    head, body = _files(path)
    header, raw = _header(head, packing)
    shape = decode.check_shape(path, header.get_data_shape())
    dtype = decode.check_dtype(path, header.get_data_dtype())
    array = decode.read_voxels(
        body, shape, dtype, skip=int(header.get_data_offset()), packing=packing
    )
    slope, inter = header.get_slope_inter()
    if slope is not None and (slope, inter) != (1.0, 0.0):
        array = (array * float(slope) + float(inter)).astype(np.float32)
    unit = _unit(header)
    affine, placed, sized, remarks = _geometry(header, raw)
    return Volume(
        array,
        decode.spacing_of(np.linalg.norm(affine[:3, :3], axis=0)),
        unit or units.UNKNOWN,
        affine,
        spacing_known=sized and unit is not None,
        placed=placed,
        alone=head == body,
        remarks=remarks,
    )


def stated_shape(path: Path) -> tuple[int, ...]:
    """Return the shape in the header of a `.nii`, `.nii.gz` or `.hdr`."""
    header, _ = _header(_files(path)[0], "gzip" if path.name.lower().endswith(".gz") else "raw")
    return tuple(int(size) for size in header.get_data_shape())


def write(path: Path, array: Array, like: Volume, *, about: bytes = b"") -> Path:
    """Write an array (X, Y, Z), or (X, Y, Z, C), with the geometry of `like`.

    Equal arrays give equal bytes.
    """
    image = nib.Nifti1Image(array, like.affine, dtype=array.dtype)
    image.header.set_zooms((*like.spacing, *[1.0] * (array.ndim - 3)))
    if about:
        _place_twice(image)
    image.header.set_xyzt_units(xyz=like.unit)
    image.header["descrip"] = about
    content = image.to_bytes()
    packed = gzip.compress(content, 1, mtime=0) if path.name.endswith(".gz") else content
    return files.write(path, lambda temporary: temporary.write_bytes(packed))


def _place_twice(image: nib.Nifti1Image) -> None:
    """State the place of a mask as qform too, for readers of one form; curated bytes stay.

    Code 2 of both is "aligned to another file", here to the image. A qform holds no shear.
    """
    image.set_qform(image.affine, code=2)
    if not _is_same(image.get_qform(), image.affine):
        image.set_qform(None, code=0)


def _files(path: Path) -> tuple[Path, Path]:
    """Return the file of the header and the file of the voxels."""
    if path.suffix.lower() not in (".hdr", ".img"):
        return path, path
    both = volume_files(path)
    if len(both) < 2:
        raise file_error(path, "is one half of a pair .hdr and .img whose other half is not there")
    return (both[0], both[1]) if path.suffix.lower() == ".hdr" else (both[1], both[0])


def about(path: Path) -> bytes:
    """Return the description field of the header; empty if it cannot be read."""
    try:
        header, _ = _header(path, "gzip" if path.name.lower().endswith(".gz") else "raw")
    except (DataError, OSError):
        return b""
    return bytes(header["descrip"].item())


def _header(path: Path, packing: str) -> tuple[Any, bytes]:
    """Return the header as nibabel corrects it, and its original bytes."""
    raw = decode.read_block(path, FIRST, packing=packing).tobytes()
    try:
        if path.suffix.lower() == ".hdr":
            is_nifti = raw[344:347] == b"ni1"
            kind = nib.nifti1.Nifti1PairHeader if is_nifti else nib.Spm2AnalyzeHeader
            return _corrected(kind, raw, path), raw
        if nib.Nifti1Header.may_contain_header(raw):
            return _corrected(nib.Nifti1Header, raw, path), raw
        if raw[4:8] == b"n+2\0":
            raw = decode.read_block(path, SECOND, packing=packing).tobytes()
            return _corrected(nib.Nifti2Header, raw, path), raw
    # A damaged header fails in many ways: bad codes, sizes that overflow.
    except HEADER_ERRORS as error:
        raise file_error(path, f"cannot be read ({error})") from error
    raise file_error(path, "is no NIfTI volume")


class _Corrections(logging.LoggerAdapter[logging.Logger]):
    """What nibabel corrects, for logs: findings say it to people, once and with the file."""

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """Note a correction, however grave nibabel calls it."""
        if msg:  # nibabel notes each check that found nothing, too
            self.logger.info("%s: %s", dict(self.extra or {})["file"], msg)


def _corrected(kind: Any, raw: bytes, path: Path) -> Any:
    header = kind(raw, check=False)
    header.check_fix(logger=_Corrections(log, {"file": str(path)}))
    return header


def _unit(header: Any) -> str | None:
    """Return the unit; None for an undefined code. Analyze is in millimetres."""
    try:
        return str(header.get_xyzt_units()[0])
    except AttributeError:
        return "mm"
    except KeyError:
        return None


def _geometry(header: Any, raw: bytes) -> tuple[Affine, bool, bool, Remarks]:
    """Return the affine in use: sform, else qform, else the sizes of pixdim alone.

    Also whether it places the volume, whether it states sizes, and how the other forms differ.
    """
    forms = {"sform": _form(header, "get_sform"), "qform": _form(header, "get_qform")}
    stated = {name: form for name, form in forms.items() if form is not None}
    usable = {name: form for name, form in stated.items() if decode.is_invertible(form)}
    sizes = np.asarray(header.get_zooms()[:3], dtype=np.float64)
    odd = [f"{name}, which holds no usable numbers" for name in stated if name not in usable]
    if not usable:
        base = np.asarray(header.get_base_affine(), dtype=np.float64)
        return base, False, _states_sizes(header, raw), _disagree(odd, "pixdim")
    used, affine = next(iter(usable.items()))
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    for name, form in usable.items():
        if not _is_same(form, affine):
            place = ", in another place" if _size(form) == _size(affine) else ""
            odd.append(f"{name} ({_size(form)}{place})")
    if not np.allclose(sizes, steps, rtol=TOLERANCE) and "qform" not in usable:
        odd.append(f"pixdim ({units.spacing_text(sizes, '')})")
    return affine, True, True, _disagree(odd, f"{used} ({_size(affine)})")


def _disagree(others: list[str], used: str) -> Remarks:
    if not others:
        return ()
    return (("forms_disagree", f"The header holds several geometries: {used} is used for voxel "
             f"size and place, against {' and '.join(others)}."),)  # fmt: skip


def _form(header: Any, name: str) -> Affine | None:
    """Return a form if it is coded; an invalid rotation becomes an affine of NaN."""
    try:
        form = getattr(header, name)(coded=True)[0]
    except AttributeError:  # Analyze has none
        return None
    except (ValueError, nib.spatialimages.HeaderDataError):
        return np.full((4, 4), np.nan)
    return None if form is None else np.asarray(form, dtype=np.float64)


def _is_same(form: Affine, used: Affine) -> bool:
    """Whether two forms agree within a thousandth of a voxel."""
    step = max(float(np.abs(used[:3, :3]).max()), 1e-12)
    return bool(np.allclose(form, used, atol=TOLERANCE * step, rtol=1e-4))


def _size(form: Affine) -> str:
    return units.spacing_text(np.linalg.norm(form[:3, :3], axis=0), "")


def _states_sizes(header: Any, raw: bytes) -> bool:
    """Whether the sizes in the file are not 0, which nibabel silently makes 1."""
    steps = type(header)(raw, check=False)["pixdim"][1:4]
    return bool(np.isfinite(steps).all() and np.all(steps != 0))
