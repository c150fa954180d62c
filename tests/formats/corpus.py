"""Broken and odd pairs, each made from a good one, and the findings that each must have."""

from __future__ import annotations

import gzip
import json
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import nrrd
import numpy as np
import tifffile

from minivess.formats.volume import read_volume, write_mask
from tests.conftest import tube

Array = np.ndarray
Expected = tuple[tuple[str, str], ...]
SHAPE = (16, 18, 6)
UNREADABLE: Expected = (("unreadable", "error"),)
DIMENSIONS: Expected = (("wrong_dimensions", "error"),)
LABEL: Expected = (("label_values", "error"),)
FINE: Expected = ()


class Pair:
    """An image and a label of one case, good until something spoils them."""

    def __init__(self, root: Path, case: str, seed: int) -> None:
        self.image_array, self.label_array = tube(SHAPE, seed)
        self.image = root / "images" / f"{case}.nii.gz"
        self.label = root / "labels" / f"{case}.nii.gz"
        self.save()

    def save(self, image: Array | None = None, label: Array | None = None) -> None:
        for path, array, given in (
            (self.image, self.image_array, image),
            (self.label, self.label_array, label),
        ):
            write(path, array if given is None else given)

    def rename(self, ending: str) -> Path:
        """The image in another format."""
        self.image.unlink()
        self.image = self.image.with_name(self.image.name.replace(".nii.gz", ending))
        return self.image

    def header(self, **fields: object) -> None:
        """Change fields of the image's header, behind the back of any check."""
        for path in (self.image, self.label):
            raw = bytearray(gzip.decompress(path.read_bytes()))
            header = nib.Nifti1Header(bytes(raw[:348]), check=False)
            for name, value in fields.items():
                header[name] = value
            raw[:348] = header.binaryblock
            path.write_bytes(gzip.compress(bytes(raw)))
            if fields.keys() & {"dim", "magic", "datatype", "sizeof_hdr"}:
                return  # of the image alone

    def packed(self, change: Callable[[bytes], bytes]) -> None:
        self.image.write_bytes(change(self.image.read_bytes()))

    def inner(self, change: Callable[[bytes], bytes]) -> None:
        self.packed(lambda raw: gzip.compress(change(gzip.decompress(raw))))


def write(path: Path, array: Array, affine: Array | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array, np.eye(4) if affine is None else affine, dtype=array.dtype)
    nib.save(image, path)


def with_form(pair: Pair, affine: Array, *, qform: Array | None = None) -> None:
    for path, array in ((pair.image, pair.image_array), (pair.label, pair.label_array)):
        image = nib.Nifti1Image(array, affine)
        if qform is not None:
            image.set_qform(qform, 1)
            image.set_sform(affine, 1)
        nib.save(image, path)


def nan(value: float) -> Callable[[Pair], None]:
    def make(pair: Pair) -> None:
        array = pair.image_array.astype(np.float32)
        array[3, 3, 3] = value
        pair.save(array)

    return make


def image(change: Callable[[Array], Array]) -> Callable[[Pair], None]:
    return lambda pair: pair.save(image=change(pair.image_array))


def label(change: Callable[[Array], Array]) -> Callable[[Pair], None]:
    return lambda pair: pair.save(label=change(pair.label_array))


def both(shape: tuple[int, ...]) -> Callable[[Pair], None]:
    image = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    return lambda pair: pair.save(image, (image % 2).astype(np.uint8))


def colour(pair: Pair) -> None:
    rgb = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(rgb, np.eye(4)), pair.image)


def big_endian(pair: Pair) -> None:
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(np.uint16)
    nib.save(nib.Nifti1Image(pair.image_array, np.eye(4), header), pair.image)


def scaled(pair: Pair) -> None:
    pair.header(scl_slope=1.0, scl_inter=0.0)  # the label stays as it is
    raw = bytearray(gzip.decompress(pair.image.read_bytes()))
    raw[112:120] = struct.pack("<ff", 0.5, 10)
    pair.image.write_bytes(gzip.compress(bytes(raw)))


def shear() -> Array:
    affine = np.eye(4)
    affine[0, 1] = 0.4
    return affine


def moved(pair: Pair) -> None:
    affine = np.eye(4)
    affine[:3, 3] = (5, 0, 0)
    write(pair.label, pair.label_array, affine)


def flipped(pair: Pair) -> None:
    affine = np.diag([1, -1, 1, 1.0])
    affine[1, 3] = SHAPE[1] - 1
    write(pair.label, pair.label_array[:, ::-1], affine)


def endless(pair: Pair) -> None:
    file = pair.rename(".tif")
    tifffile.imwrite(file, pair.image_array.T, ome=True, photometric="minisblack")
    with tifffile.TiffFile(file) as tiff:
        first, last = tiff.pages.first, tiff.pages[-1].aspage()
        after = last.offset + 2 + 12 * len(last.tags)
    with file.open("r+b") as raw:
        raw.seek(after)
        raw.write(struct.pack("<I", first.offset))


def thumbnail(pair: Pair) -> None:
    with tifffile.TiffWriter(pair.rename(".tif")) as writer:
        writer.write(pair.image_array.T[0, ::2, ::2])
        writer.write(pair.image_array.T)


def tif(pair: Pair, array: Array, **options: Any) -> None:
    tifffile.imwrite(pair.rename(".tif"), array, **options)


def gone(pair: Pair) -> None:
    pair.image.unlink()
    pair.image.symlink_to("nowhere.nii.gz")


def not_gzip(pair: Pair) -> None:
    pair.packed(gzip.decompress)


def two_members(pair: Pair) -> None:
    """Packed in blocks, as pigz and bgzip do."""
    raw = gzip.decompress(pair.image.read_bytes())
    pair.image.write_bytes(gzip.compress(raw[:700]) + gzip.compress(raw[700:]))


def bomb(pair: Pair) -> None:
    """After the voxels, 2 GB of nothing."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    raw = gzip.decompress(pair.image.read_bytes())
    parts = [packer.compress(raw), *(packer.compress(bytes(1 << 24)) for _ in range(12))]
    pair.image.write_bytes(b"".join([*parts, packer.flush()]))


def unpacked_lie(pair: Pair) -> None:
    """1 TB by its header, without compression."""
    raw = bytearray(gzip.decompress(pair.image.read_bytes()))
    header = nib.Nifti1Header(bytes(raw[:348]))
    header["dim"][1:4] = (10000, 10000, 10000)
    pair.rename(".nii").write_bytes(header.binaryblock + bytes(raw[348:]))


def holes(ending: str) -> Callable[[Pair], None]:
    """The header of a volume of 1 TB, and no more than the header on the disk."""

    def make(pair: Pair) -> None:
        unpacked_lie(pair)
        os.truncate(pair.image, 352 + 10**12 * pair.image_array.itemsize)
        pair.image.rename(pair.image.with_name(pair.image.name.removesuffix(".nii") + ending))

    return make


def header_lies(*dim: int) -> Callable[[Pair], None]:
    return lambda pair: pair.header(dim=[3, *dim, 1, 1, 1, 1])


KINDS: dict[str, tuple[Callable[[Pair], object], Expected]] = {
    # what is no volume, or is less than one
    "gzip cut in its header": (lambda p: p.packed(lambda b: b[:7]), UNREADABLE),
    "gzip cut in the volume's header": (lambda p: p.packed(lambda b: b[:60]), UNREADABLE),
    "gzip cut in the voxels": (lambda p: p.packed(lambda b: b[: len(b) // 2]), UNREADABLE),
    "gzip cut at the last voxel": (lambda p: p.packed(lambda b: b[:-12]), UNREADABLE),
    "gzip cut in its checksum": (lambda p: p.packed(lambda b: b[:-3]), UNREADABLE),
    "gzip with a wrong bit": (
        lambda p: p.packed(lambda b: b[:900] + bytes([b[900] ^ 64]) + b[901:]),
        UNREADABLE,
    ),
    "gzip with a wrong checksum": (
        lambda p: p.packed(lambda b: b[:-8] + b"abcd" + b[-4:]),
        UNREADABLE,
    ),
    "gzip in name only": (not_gzip, UNREADABLE),
    "gzip in two members": (two_members, FINE),
    "gzip of much more": (bomb, FINE),
    "voxels missing": (lambda p: p.inner(lambda b: b[:-500]), UNREADABLE),
    "voxels too many": (lambda p: p.inner(lambda b: b + bytes(500)), FINE),
    "header cut": (lambda p: p.inner(lambda b: b[:200]), UNREADABLE),
    "empty file": (lambda p: p.packed(lambda b: b""), UNREADABLE),
    "text": (lambda p: p.packed(lambda b: b"no volume"), UNREADABLE),
    "random bytes": (lambda p: p.packed(lambda b: os.urandom(2000)), UNREADABLE),
    "wrong magic": (lambda p: p.header(magic=b"xyz"), UNREADABLE),
    "wrong header size": (lambda p: p.header(sizeof_hdr=999), FINE),
    "unknown dtype": (lambda p: p.header(datatype=77), UNREADABLE),
    "header of 2 TB": (header_lies(10000, 10000, 10000), UNREADABLE),
    "header of 2 TB, not packed": (unpacked_lie, UNREADABLE),
    "file of 2 TB that is all holes": (holes(".nii"), UNREADABLE),
    "file of 2 TB of holes, packed by its name": (holes(".nii.gz"), UNREADABLE),
    "zero-size axis": (header_lies(16, 0, 6), UNREADABLE),
    "negative axis": (header_lies(16, -18, 6), UNREADABLE),
    "label cut": (lambda p: p.label.write_bytes(p.label.read_bytes()[:90]), UNREADABLE),
    "folder in place of a file": (
        lambda p: (p.image.unlink(), p.image.mkdir()),
        (("extra_label", "warning"),),
    ),
    "broken link": (gone, (("broken_link", "warning"), ("extra_label", "warning"))),
    # dimensions
    "2-D": (image(lambda a: a[:, :, 0]), DIMENSIONS),
    "4-D of one channel": (image(lambda a: a[..., None]), FINE),
    "4-D of three channels": (image(lambda a: np.stack([a] * 3, -1)), DIMENSIONS),
    "5-D": (image(lambda a: np.stack([a[..., None]] * 2, -1)), DIMENSIONS),
    "single slice": (both((16, 18, 1)), DIMENSIONS),
    "three slices": (both((16, 18, 3)), (("few_slices", "warning"),)),
    "label of another shape": (label(lambda a: a[:, :, :-1]), (("shape_mismatch", "error"),)),
    "axes in another order": (label(lambda a: a.T), (("shape_mismatch", "error"),)),
    "RGB": (colour, UNREADABLE),
    "complex": (image(lambda a: a.astype(np.complex64)), UNREADABLE),
    # voxels
    "NaN": (nan(np.nan), (("non_finite", "error"),)),
    "infinite": (nan(np.inf), (("non_finite", "error"),)),
    "constant": (image(lambda a: np.full_like(a, 7)), (("constant", "error"),)),
    "constant float": (image(lambda a: np.full(a.shape, 0.5, "f4")), (("constant", "error"),)),
    "int64": (image(lambda a: a.astype(np.int64)), (("wide_dtype", "info"),)),
    "float64": (image(lambda a: a.astype(np.float64)), (("wide_dtype", "info"),)),
    "int8": (image(lambda a: (a // 16).astype(np.int8)), FINE),
    "big-endian": (big_endian, FINE),
    "image of a handful of values": (
        lambda p: p.save(*(np.tile(p.label_array * times, (4, 4, 4)) for times in (9, 1))),
        (("few_values", "warning"),),
    ),
    "scl_slope set": (scaled, FINE),
    # geometry
    "negative spacing": (lambda p: p.header(pixdim=[1, 1, -1, 1, 0, 0, 0, 0], sform_code=0), FINE),
    "zero spacing": (
        lambda p: p.header(pixdim=[1, 1, 0, 1, 0, 0, 0, 0], sform_code=0),
        (("unknown_spacing", "warning"),),
    ),
    "sheared affine": (lambda p: with_form(p, shear()), (("sheared_affine", "warning"),)),
    "sform and qform disagree": (
        lambda p: with_form(p, np.eye(4), qform=np.diag([1, -1, 1, 1])),
        (("forms_disagree", "warning"),),
    ),
    "label elsewhere": (moved, (("affine_mismatch", "warning"),)),
    "label with flipped axes": (flipped, (("reoriented", "info"),)),
    "size that is no number": (
        lambda p: p.header(pixdim=[1, 1, np.nan, 1, 0, 0, 0, 0], sform_code=0),
        (("implausible_spacing", "error"),),
    ),
    "sform of another size than pixdim": (
        lambda p: p.header(pixdim=[1, 2, 2, 2, 0, 0, 0, 0], qform_code=0),
        (("forms_disagree", "warning"),),
    ),
    # labels
    "empty label": (label(np.zeros_like), (("empty_label", "warning"),)),
    "label of fractions": (label(lambda a: a.astype("f4") * 0.3), LABEL),
    "label with NaN": (label(lambda a: np.where(a, np.nan, 0).astype("f4")), LABEL),
    "label as float": (label(lambda a: a.astype("f4")), FINE),
    "label as bool": (label(lambda a: a.astype(np.int8)), FINE),
    "label of almost whole numbers": (
        label(lambda a: a * np.float32(0.9996)),
        (("label_rounded", "info"),),
    ),
    "label that is the image": (
        lambda p: p.save(label=p.image_array),
        (("label_is_image", "error"),),
    ),
    # other formats
    "tif without voxel size": (
        lambda p: tif(p, p.image_array.T),
        (("unknown_spacing", "warning"),),
    ),
    "tif of colour": (
        lambda p: tif(p, np.zeros((6, 18, 16, 3), "u1"), photometric="rgb"),
        DIMENSIONS,
    ),
    "tif of one page": (lambda p: tif(p, p.image_array.T[0]), DIMENSIONS),
    "tif cut": (
        lambda p: (tif(p, p.image_array.T), p.packed(lambda b: b[:1500])),
        UNREADABLE,
    ),
    "tif whose pages lead back": (endless, UNREADABLE),
    "tif of text": (lambda p: p.rename(".tif").write_text("none"), UNREADABLE),
    "nrrd of text": (lambda p: p.rename(".nrrd").write_text("none"), UNREADABLE),
    "nrrd cut": (
        lambda p: (nrrd.write(str(p.rename(".nrrd")), p.image_array), p.packed(lambda b: b[:-50])),
        UNREADABLE,
    ),
    "mha of text": (lambda p: p.rename(".mha").write_text("none"), UNREADABLE),
    "tif of a thumbnail and a volume": (
        thumbnail,
        (("read_as", "warning"), ("unknown_spacing", "warning")),
    ),
    # names
    "Ünïcödé 血管": (lambda p: None, FINE),
    "name with  spaces ": (lambda p: None, FINE),
    "name-'quoted' $HOME;": (lambda p: None, FINE),
}  # fmt: skip


def good(root: Path, n: int = 6) -> list[Pair]:
    return [Pair(root, f"v{index}", 100 + index) for index in range(n)]


def same_voxels(root: Path) -> None:
    first, *_, last = good(root)
    write(last.image, first.image_array.astype(np.int32))


def cut_out(root: Path) -> None:
    first, *_, last = good(root)
    whole = np.random.default_rng(0).integers(0, 4000, (40, 30, 10)).astype(np.uint16)
    for pair, part in ((first, whole), (last, whole[6:36, 4:28, 2:9])):
        write(pair.image, part)
        write(pair.label, (part > 3000).astype(np.uint8))


def tube_of_two(label: Array) -> Array:
    """The upper half of a label as another class."""
    return label * np.where(np.arange(SHAPE[2]) < 3, 1, 2).astype(np.uint8)


def one_group(root: Path) -> None:
    (root / "groups.json").write_text(json.dumps({f"v{index}": "a" for index in range(6)}))


# What is about volumes beside each other: how the set is made, and the findings it must have.
SETS: dict[str, tuple[Callable[[Path], object], Expected]] = {
    "one volume twice": (same_voxels, (("duplicate", "warning"),)),
    "one volume twice, in one group": (
        lambda root: (same_voxels(root), one_group(root)),
        (("duplicate", "info"),),
    ),
    "a crop of another": (cut_out, (("near_duplicate", "warning"), ("outlier", "warning"))),
    "a crop of another, in one group": (
        lambda root: (cut_out(root), one_group(root)),
        (("near_duplicate", "info"), ("outlier", "warning")),
    ),
    "one voxel size far from the rest": (
        lambda root: good(root)[3].header(pixdim=[1, 4.97, 4.97, 1, 0, 0, 0, 0], sform_code=0),
        (("outlier", "warning"),),
    ),
    "half in micron, half without a unit": (
        lambda root: [pair.header(xyzt_units=3 * (i % 2)) for i, pair in enumerate(good(root))],
        (("mixed_units", "warning"),),
    ),
    "voxels of a kilometre": (
        lambda root: [
            pair.header(pixdim=[1, 1e6, 1e6, 1e6, 0, 0, 0, 0], sform_code=0, xyzt_units=2)
            for pair in good(root)
        ],
        (("implausible_spacing", "warning"),),
    ),
    "labels of 0 and 255": (
        lambda root: [pair.save(label=pair.label_array * 255) for pair in good(root)],
        (("label_values", "error"),),
    ),
    "foreground and background swapped": (
        lambda root: [pair.save(label=1 - pair.label_array) for pair in good(root)],
        (("much_foreground", "warning"),),
    ),
    "another class in each label": (
        lambda root: [p.save(label=p.label_array * (1 + i % 2)) for i, p in enumerate(good(root))],
        (("label_meaning", "warning"),),
    ),
    "a class of one volume": (
        lambda root: good(root)[2].save(label=tube_of_two(good(root)[2].label_array)),
        (("rare_class", "warning"),),
    ),
    "no foreground at all": (
        lambda root: [pair.save(label=pair.label_array * 0) for pair in good(root)],
        (("empty_label", "error"), ("empty_label", "warning")),
    ),
    "an image without a label": (
        lambda root: good(root)[2].label.unlink(),
        (("missing_label", "warning"),),
    ),
    "a label without an image": (
        lambda root: good(root)[2].image.unlink(),
        (("extra_label", "warning"),),
    ),
    "a format that is not read": (
        lambda root: (good(root), (root / "images" / "x.czi").touch()),
        (("unread_format", "warning"),),
    ),
    "labels that predict wrote": (
        lambda root: [write_mask(p.label, p.label_array, read_volume(p.image)) for p in good(root)],
        (("predicted_label", "warning"),),
    ),
    "names of two kinds": (
        lambda root: good(root)[0].label.rename(root / "labels" / "v0_seg.nii.gz"),
        (("mixed_names", "warning"),),
    ),
    "folders of a split": (
        lambda root: (good(root / "train"), good(root / "test")),
        (("divided", "warning"), ("duplicate", "warning")),
    ),
}  # fmt: skip


def lay(root: Path) -> Path:
    """Every kind as one case of one folder, and files that lie about in real folders."""
    for seed, (kind, (spoil, _)) in enumerate(KINDS.items()):
        spoil(Pair(root, kind, seed))
    for name in ("images/x.nii.gz.lock", "labels/~$x.nii.gz", "images/y.nii.gz.part", "a.tmp"):
        (root / name).touch()
    return root
