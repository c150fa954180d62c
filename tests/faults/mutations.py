"""Damaged files by the thousand: `python -m tests.faults.mutations FOLDER COUNT [SEED] [KIND ...]`.

A mutation is a function of (kind, seed). Each is read by the door that a user's file goes through,
which has to answer, or to refuse with an error of ours, within two seconds and 500 MB. Readers run
in forked children, so that a crash of a library is seen as well. Prints one JSON object.
"""

from __future__ import annotations

import faulthandler
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import nrrd
import numpy as np
import tifffile

from minivess import config
from minivess.data.pairing.cases import pair_files
from minivess.errors import MinivessError, StoreError
from minivess.formats.volume import read_volume
from minivess.runtime.archives import Archive
from tests.conftest import tube, write_nifti

Read = Callable[[Path], object]
Reports = dict[str, dict[str, Any]]
SECONDS, MEMORY_KB = 2.0, 500_000
PART = 200
"""Mutations that one child reads."""
NUMBERS = ("0", "-1", "1e9", "65536", "2147483648", "99999999999999999999", "nan", "''", "[]", "x")
PATTERNS = tuple(
    number.to_bytes(size, "little", signed=number < 0)
    for number in (0, 1, -1, 2**15, 2**31 - 1, 2**62)
    for size in (2, 4, 8)
    if number.bit_length() < 8 * size
)


def samples(folder: Path) -> Iterator[tuple[str, Path, Read]]:
    """Kind, a good file, and the door that reads it."""
    image, mask = tube((12, 10, 5), seed=1)
    for name in ("plain.nii", "packed.nii.gz"):
        yield name, write_nifti(folder / name, image), read_volume
    nib.save(nib.Nifti2Image(image.astype(np.float32), np.eye(4)), folder / "second.nii")
    yield "second.nii", folder / "second.nii", read_volume
    stack = image.transpose(2, 1, 0)
    tifffile.imwrite(folder / "plain.tif", stack, imagej=True, metadata={"spacing": 2.0})
    tifffile.imwrite(folder / "tiles.ome.tif", stack, tile=(16, 16), compression="zlib")
    yield "plain.tif", folder / "plain.tif", read_volume
    yield "tiles.ome.tif", folder / "tiles.ome.tif", read_volume
    nrrd.write(str(folder / "plain.nrrd"), image)
    yield "plain.nrrd", folder / "plain.nrrd", read_volume
    for name, packed in (("plain.mha", False), ("packed.mha", True)):
        yield name, _metaimage(folder / name, image, packed=packed), read_volume
    yield "dataset.json", _listed(folder / "listed", image, mask), _pair
    settings = Path(__file__).resolve().parents[2] / "configs" / "experiments" / "smoke.yaml"
    yield "settings.yaml", Path(shutil.copy(settings, folder / "settings.yaml")), _settings
    for kind, ending in (("gztar", ".tar.gz"), ("tar", ".tar"), ("zip", ".zip")):
        shutil.make_archive(str(folder / "bundle"), kind, folder / "listed")
        yield f"bundle{ending}", folder / f"bundle{ending}", _unpack


def _metaimage(path: Path, image: np.ndarray, *, packed: bool) -> Path:
    header = {
        "ObjectType": "Image", "NDims": 3, "BinaryData": True, "BinaryDataByteOrderMSB": False,
        "CompressedData": packed, "TransformMatrix": "1 0 0 0 1 0 0 0 1", "Offset": "0 0 0",
        "ElementSpacing": "0.5 0.5 2", "DimSize": "{} {} {}".format(*image.shape),
        "ElementType": "MET_USHORT", "ElementDataFile": "LOCAL",
    }  # fmt: skip
    text = "".join(f"{name} = {value}\n" for name, value in header.items())
    voxels = image.tobytes(order="F")
    path.write_bytes(text.encode() + (zlib.compress(voxels) if packed else voxels))
    return path


def _listed(folder: Path, image: np.ndarray, mask: np.ndarray) -> Path:
    pairs = []
    for case in ("a", "b"):
        write_nifti(folder / "imagesTr" / f"{case}.nii.gz", image)
        write_nifti(folder / "labelsTr" / f"{case}.nii.gz", mask)
        names = {"image": f"./imagesTr/{case}.nii.gz", "label": f"./labelsTr/{case}.nii.gz"}
        pairs.append(names)
    about = {"labels": {"0": "background", "1": "vessel"}, "numTraining": 2, "training": pairs}
    (folder / "dataset.json").write_text(json.dumps(about))
    return folder / "dataset.json"


def _pair(path: Path) -> object:
    return pair_files(path.parent)


def _settings(path: Path) -> object:
    return config.load([path], [])


def _unpack(path: Path) -> object:
    """Unpack into a folder; whatever the names in the archive say, nothing lands beside it."""
    before = set(path.parent.iterdir())
    with tempfile.TemporaryDirectory(dir=path.parent) as target:
        try:
            return Archive(path, StoreError, "copy it again").extract(Path(target))
        finally:
            assert set(path.parent.iterdir()) == {*before, Path(target)}


def mutated(content: bytes, seed: int) -> bytes:
    """Change some bytes: flips, cuts, numbers at random places, numbers in texts, copied blocks."""
    rng = random.Random(seed)
    raw = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        # Headers stand at the beginning of most formats.
        end = len(raw) if rng.random() < 0.4 else min(len(raw), 600)
        at = rng.randrange(max(1, end))
        match rng.randrange(6):
            case 0:
                raw[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                pattern = rng.choice(PATTERNS)
                raw[at : at + len(pattern)] = pattern
            case 2:
                del raw[at : at + rng.choice((1, 4, 100, len(raw)))]
            case 3:
                raw[at:at] = raw[at : at + rng.choice((1, 8, 300))]
            case 4:
                _number(raw, at, rng)
            case _:
                raw[at : at + 8] = rng.randbytes(8)
    return bytes(raw)


def _number(raw: bytearray, at: int, rng: random.Random) -> None:
    """Put another number or word where a text has a digit next."""
    for place in range(at, min(at + 200, len(raw))):
        if chr(raw[place]).isdigit():
            raw[place : place + 1] = rng.choice(NUMBERS).encode()
            return


def fuzz(
    folder: Path, count: int, seed: int = 0, kinds: tuple[str, ...] = ()
) -> dict[str, dict[str, Any]]:
    """Read `count` mutations of each kind; returns how they ended and what went wrong."""
    found = {}
    for kind, path, read in samples(folder):
        if not kinds or kind in kinds:
            found[kind] = read_all(path, read, count=count, seed=seed)
    return found


def read_all(path: Path, read: Read, *, count: int, seed: int = 0) -> dict[str, Any]:
    """Read `count` mutations of one file."""
    content, ends, wrong = path.read_bytes(), {"read": 0, "refused": 0}, []
    first = seed
    while first < seed + count:
        last = min(first + PART, seed + count)
        log = path.with_name(f"{path.name}.log")
        status = _child(path, read, content, range(first, last), log)
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        for line in lines:
            if line.get("end") in ends:
                ends[line["end"]] += 1
            elif "end" in line:
                wrong.append(line)
        begun = [line["seed"] for line in lines if "end" not in line]
        if status != 0:
            wrong.append({"seed": begun[-1], "end": f"ended by {signal.Signals(-status).name}"})
        first = begun[-1] + 1 if status != 0 else last
    path.write_bytes(content)
    return {"mutations": count, **ends, "wrong": wrong}


def _child(path: Path, read: Read, content: bytes, seeds: range, log: Path) -> int:
    log.write_text("")
    pid = os.fork()
    if pid == 0:
        with log.with_suffix(".said").open("w") as said:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
        signal.signal(signal.SIGVTALRM, signal.SIG_DFL)
        faulthandler.disable()
        with log.open("w", buffering=1) as out:
            for seed in seeds:
                print(json.dumps({"seed": seed}), file=out)
                path.write_bytes(mutated(content, seed))
                signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
                print(json.dumps({"seed": seed, "end": _end(path, read)}), file=out)
                signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _end(path: Path, read: Read) -> str:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        read(path)
    except MinivessError:
        end = "refused"
    except Exception:  # noqa: BLE001  (the report shows it)
        return traceback.format_exc()[-1500:]
    else:
        end = "read"
    taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return end if taken < MEMORY_KB else f"{end} with {taken} kB"


def main(folder: str, count: str, seed: str = "0", *kinds: str) -> None:
    """Print what came of it."""
    json.dump(fuzz(Path(folder), int(count), int(seed), kinds), sys.stdout, indent=1)


if __name__ == "__main__":
    main(*sys.argv[1:])
