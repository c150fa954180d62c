"""A bento: the exported network, its record and our own sources, built by BentoML."""

from __future__ import annotations

import importlib.metadata
import logging
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from minivess import config, files, networks
from minivess.contracts import Network, Window
from minivess.errors import ServingError
from minivess.serving import model_record

PACKAGE = Path(__file__).resolve().parents[1]
SERVICE = "minivess.serving.service:Segmentation"
REQUIREMENTS = (
    "bentoml", "imagecodecs", "isal", "jinja2", "monai", "nibabel", "numpy", "onnxruntime",
    "prometheus_client", "psutil",
    "pydantic", "pynrrd", "PyYAML", "tifffile", "torch",
)  # fmt: skip
"""What the service imports; the network itself needs nothing but its ONNX file."""

logger = logging.getLogger(__name__)


def bento_home(folder: Path) -> Path:
    """BENTOML_HOME below `folder`, which is `home.served`."""
    return folder / "bentoml"


def build(
    folder: Path,
    *,
    onnx: Path,
    network: Network,
    window: Window,
    lineage: dict[str, str],
    name: str,
    version: str,
    classes: tuple[int, ...] | None = None,
) -> str:
    """Build the bento `name:version` below `folder` (`home.served`); returns its tag.

    `classes` are the label values that masks are written with (default: channel numbers).
    The bento holds our sources, so a later release of ours does not change what it answers.
    A bento of the same tag is replaced.

    Raises:
        ServingError: BentoML refuses to build.
    """
    model = model_record.ServedModel(
        name=plain(name),
        version=plain(version),
        network=network,
        window=window,
        divisor=networks.divisor(network),
        classes=classes or tuple(range(network.out_channels)),
        lineage=lineage,
    )
    source = folder / "build" / f"{model.name}-{model.version}"
    shutil.rmtree(source, ignore_errors=True)
    stage(source, onnx, model)
    _discard(folder, model)
    _run_bentoml(folder, source, model)
    shutil.rmtree(source, ignore_errors=True)
    logger.info("built the service %s", model.label)
    return model.label


def built(folder: Path, name: str, version: str) -> model_record.ServedModel | None:
    """The record of the bento `name:version` below `folder`, if it is there."""
    place = bento_home(folder) / "bentos" / plain(name) / plain(version) / "src"
    return model_record.read(place) if (place / model_record.CONFIG).is_file() else None


def stage(source: Path, onnx: Path, model: model_record.ServedModel) -> Path:
    """Lay out what the bento is built from."""
    files.copy(onnx, source / model_record.ONNX)
    model_record.write(source, model)
    shutil.copytree(
        PACKAGE,
        source / "minivess",
        ignore=shutil.ignore_patterns("__pycache__", "_configs", "_deployments"),
    )
    files.write_text(source / "bentofile.yaml", yaml.safe_dump(bentofile(model), sort_keys=False))
    files.write_text(source / "README.md", readme(model))
    return source


def bentofile(model: model_record.ServedModel) -> dict[str, object]:
    """BentoML's build file. Local serving uses this environment, an image installs the pins."""
    return {
        "service": SERVICE,
        "name": model.name,
        "include": [model_record.ONNX, model_record.CONFIG, "minivess/", "README.md"],
        "labels": {"project": "minivess", **{k: label_value(v) for k, v in model.lineage.items()}},
        "python": {
            "packages": [f"{name}=={importlib.metadata.version(name)}" for name in REQUIREMENTS],
            # Locking asks the package index; the versions above are exact already.
            "lock_packages": False,
        },
    }


def readme(model: model_record.ServedModel) -> str:
    """What BentoML's page shows."""
    rows = "".join(f"| {key} | `{value}` |\n" for key, value in sorted(model.lineage.items()))
    return (
        f"# {model.label}\n\n"
        "Segments a 3-D volume (NIfTI, TIFF, NRRD, MHA) at its native resolution.\n\n"
        "```bash\ncurl -F image=@volume.nii.gz http://127.0.0.1:3000/predict -o mask.nii.gz\n"
        "curl -F image=@volume.nii.gz -F answer=json http://127.0.0.1:3000/predict\n```\n\n"
        f"| lineage | |\n|---|---|\n{rows}"
    )


def plain(name: str) -> str:
    """A name that BentoML's tags allow: lower case letters, digits, `.`, `_`, `-`."""
    return re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("._-")[:63] or "model"


def label_value(value: str) -> str:
    """A value that BentoML's labels allow."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", value).strip("._-")[:63]


def environment(folder: Path) -> dict[str, str]:
    """The environment of every BentoML process that we start: silent, and away from the user's."""
    home = bento_home(folder)
    home.mkdir(parents=True, exist_ok=True)
    # BentoML installs what it misses into the environment that runs; nothing may change there.
    return config.child_environment(BENTOML_HOME=str(home), PIP_NO_INDEX="1")


def _discard(folder: Path, model: model_record.ServedModel) -> None:
    shutil.rmtree(bento_home(folder) / "bentos" / model.name / model.version, ignore_errors=True)


def _run_bentoml(folder: Path, source: Path, model: model_record.ServedModel) -> None:
    command = [
        sys.executable, "-m", "bentoml", "build", str(source), "--version", model.version,
        "--output", "tag",
    ]  # fmt: skip
    done = subprocess.run(
        command, env=environment(folder), cwd=source, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        tail = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise ServingError(
            f"BentoML could not build {model.label}: {' '.join(tail)}",
            remedy=f"cd {source} && {sys.executable} -m bentoml build --debug",
        )
