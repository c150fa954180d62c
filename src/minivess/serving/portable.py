"""A model as one zip file for other programs and machines, with the hashes of what it holds."""

from __future__ import annotations

import importlib.metadata
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from minivess import combination, files, networks
from minivess.combination import Segmenting
from minivess.contracts import Network, Versioned
from minivess.errors import ServingError
from minivess.runtime import templates
from minivess.runtime.archives import MANIFEST, Archive, hashes
from minivess.serving import export, model_record
from minivess.serving.model_record import ServedModel

Format = Literal["onnx", "torchscript", "monai", "bioimageio"]
FORMATS: tuple[Format, ...] = get_args(Format)
TEMPLATES = Path(__file__).with_name("formats")
REMEDY = "make one where the model is: minivess export FILE.zip --to onnx"
PACKAGES = ("monai", "torch", "numpy", "nibabel")
"""Whose versions a MONAI bundle names."""


class Home(NamedTuple):
    """How a format holds a model.

    Attributes:
        network: file of a network; several are numbered.
        write: network, checkpoint, file -> the file.
        texts: files that say how it is run, filled from templates; such a format holds no ensemble,
            mirrored copies or resampling.
    """

    network: str
    write: Callable[[Network, Path, Path], Path]
    texts: tuple[str, ...] = ()


HOMES: dict[Format, Home] = {
    "onnx": Home("model.onnx", export.to_onnx),
    "torchscript": Home("model.pt", export.to_torchscript),
    "monai": Home("models/model.ts", export.to_torchscript,
                  ("configs/metadata.json", "configs/inference.json", "docs/README.md")),
    "bioimageio": Home("model.onnx", export.to_onnx, ("README.md", "rdf.yaml")),
}  # fmt: skip


class Manifest(Versioned):
    """What such a file holds."""

    format: Format
    networks: tuple[str, ...]
    sha256: dict[str, str]


def write(
    target: Path, to: Format, model: ServedModel, checkpoints: Sequence[Path], card: str
) -> Path:
    """Write a model in a format; every network is compared with the trained one on other sizes.

    Args:
        card: text about the model, markdown.

    Raises:
        ServingError: the format cannot hold this model, or a network cannot be exported.
    """
    home = HOMES[to]
    if home.texts:
        _refuse_what_is_not_held(model, to)
    with tempfile.TemporaryDirectory(prefix="minivess-") as temporary:
        folder = Path(temporary)
        made = export.each(model.composition, checkpoints, folder, home.network, home.write)
        model_record.write(folder, model)
        versions = {name: importlib.metadata.version(name) for name in PACKAGES}
        values: dict[str, Any] = {"model": model, "card": card, "versions": versions, "sha256": {}}
        if to == "bioimageio":
            values["sha256"] = _example(model, checkpoints[0], folder)
        for name in home.texts:
            template = TEMPLATES / f"{to}-{Path(name).name}.j2"
            files.write_text(folder / name, templates.render(template, **values))
        names = tuple(path.relative_to(folder).as_posix() for path in made)
        manifest = Manifest(format=to, networks=names, sha256=hashes(folder))
        files.write_json(folder / MANIFEST, manifest.model_dump(mode="json"))
        return files.write(target, lambda path: _pack(folder, path))


@contextmanager
def opened(path: Path) -> Iterator[tuple[ServedModel, Segmenting]]:
    """Open such a file: the model's record and what segments with it.

    Raises:
        ServingError: it is none, or holds other bytes than its manifest says.
    """
    archive = Archive(path, ServingError, REMEDY)
    with tempfile.TemporaryDirectory(prefix="minivess-") as temporary:
        folder = Path(temporary)
        archive.extract(folder)
        archive.check(folder)
        try:
            manifest = Manifest.model_validate(files.read_json(folder / MANIFEST))
        except ValueError as error:
            raise archive.refused(f"it is no exported model ({error})") from error
        if strange := {*manifest.networks} - manifest.sha256.keys():
            raise archive.outside(min(strange))
        model = model_record.read(folder)
        load = export.torchscript if manifest.format in ("torchscript", "monai") else export.forward
        forwards = [load(folder / name) for name in manifest.networks]
        yield model, combination.segmenting(model.composition, forwards, classes=model.classes)


def _refuse_what_is_not_held(model: ServedModel, to: Format) -> None:
    traits = {
        "an ensemble": model.ensemble,
        "resampling": model.window.resampling,
        "mirrored copies": model.window.mirrored,
    }
    if odd := " and ".join(name for name, there in traits.items() if there):
        raise ServingError(
            f"The format {to} cannot hold {odd}, which {model.label} has.",
            remedy="minivess export FILE.zip --to onnx",
        )


def _example(model: ServedModel, checkpoint: Path, folder: Path) -> dict[str, str]:
    """Write an input with the network's answer, for the format's checker; returns hashes."""
    from minivess.inference import normalise

    network = model.network
    shape = (network.in_channels, *(max(16, 2 * step) for step in model.divisor))
    image = np.random.default_rng(0).normal(100, 30, shape).astype(np.float32)
    import torch

    with torch.inference_mode():
        logits = networks.load(network, checkpoint)(
            torch.from_numpy(normalise(image, model.window))[None]
        )
    np.save(folder / "test_input.npy", image[None])
    np.save(folder / "test_output.npy", logits.numpy())
    return {path.name: files.sha256(path) for path in folder.iterdir()}


def _pack(folder: Path, target: Path) -> None:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder))
