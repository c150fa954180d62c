"""Build a bento: the exported network, its record and the package's source."""

from __future__ import annotations

import importlib.metadata
import logging
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from minivess import config, files
from minivess.contracts import Composition
from minivess.errors import ServingError
from minivess.runtime import git, templates
from minivess.serving import model_record

README = Path(__file__).with_name("README.md.j2")
DOCKERFILE = Path(__file__).with_name("service.Dockerfile.j2")
PINS = "requirements.txt"
SERVICE = "minivess.serving.service:Segmentation"
REQUIREMENTS = (
    "bentoml", "connected-components-3d", "imagecodecs", "isal", "jinja2", "monai", "nibabel",
    "numpy", "onnxruntime", "prometheus_client", "psutil", "pydantic", "pynrrd", "PyYAML",
    "scikit-image", "scipy", "tifffile", "torch",
)  # fmt: skip
"""Packages that the service imports; the network needs only its ONNX file."""
TORCH_GPU = ("cuda-", "nvidia-", "triton")
"""Packages that torch itself names exactly, where its build is one for GPUs."""

logger = logging.getLogger(__name__)


def bento_home(folder: Path) -> Path:
    """Return BENTOML_HOME below `folder` (`home.served`)."""
    return folder / "bentoml"


def build(
    folder: Path,
    *,
    onnx: Sequence[Path],
    composition: Composition,
    name: str,
    version: str,
    **fields: Any,
) -> str:
    """Build the bento `name:version` below `folder` (`home.served`); returns its tag.

    The bento contains the package's source, so a later release does not change its results. A bento
    of the same tag is replaced.

    Args:
        onnx: the exported networks of the composition.
        fields: `lineage`, `classes`, `domain` and other fields of the model's record.

    Raises:
        ServingError: BentoML fails.
    """
    model = model_record.ServedModel.of(
        composition, name=bento_name(name), version=bento_name(version), **fields
    )
    source = folder / "build" / f"{model.name}-{model.version}"
    shutil.rmtree(source, ignore_errors=True)
    stage(source, onnx, model)
    shutil.rmtree(bento_home(folder) / "bentos" / model.name / model.version, ignore_errors=True)
    _run_bentoml(folder, source, model)
    shutil.rmtree(source, ignore_errors=True)
    logger.info("built the service %s", model.label)
    return model.label


def built(folder: Path, name: str, version: str) -> model_record.ServedModel | None:
    """Return the record of the bento `name:version` below `folder`; None if there is none."""
    place = bento_home(folder) / "bentos" / bento_name(name) / bento_name(version) / "src"
    return model_record.read(place) if (place / model_record.CONFIG).is_file() else None


def stage(source: Path, onnx: Sequence[Path], model: model_record.ServedModel) -> Path:
    """Write the build folder of the bento."""
    for file, place in zip(
        onnx, model_record.network_files(model.composition, source), strict=True
    ):
        files.copy(file, place)
    model_record.write(source, model)
    files.copy_package(source)
    files.write_text(source / "bentofile.yaml", yaml.safe_dump(bentofile(model), sort_keys=False))
    files.write_text(source / "README.md", templates.render(README, model=model))
    files.write_text(source / PINS, "".join(f"{line}\n" for line in pinned(model.engine)))
    here = Path(__file__).parent
    commit = git.answer(here, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    commit = commit or config.environment().git_commit or "unknown"
    dockerfile = templates.render(DOCKERFILE, model=model, service=SERVICE, commit=commit)
    files.write_text(source / "Dockerfile", dockerfile)
    return source


def image_command(folder: Path, tag: str) -> str:
    """Return the command that builds an image of the bento `tag` with docker or podman."""
    place = bento_home(folder) / "bentos" / tag.replace(":", "/") / "src"
    # Only Docker's format of images keeps the health check.
    docker = shutil.which("docker") or not shutil.which("podman")
    engine = "docker build" if docker else "podman build --format docker"
    return f"{engine} -t {tag} {shlex.quote(str(place))}"


def pinned(engine: str) -> list[str]:
    """Return `name==version` of all packages that the service runs with here, by name."""
    found: dict[str, str] = {}
    waiting, seen = [Requirement(name) for name in (*REQUIREMENTS, engine)], set()
    while waiting:
        need = waiting.pop()
        name, extras = canonicalize_name(need.name), ("", *need.extras)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        distribution = importlib.metadata.distribution(name)
        found[name] = distribution.version.partition("+")[0]
        for inner in map(Requirement, distribution.requires or ()):
            if name == "torch" and inner.name.startswith(TORCH_GPU):
                continue
            if not inner.marker or any(inner.marker.evaluate({"extra": one}) for one in extras):
                waiting.append(inner)
    return [f"{name}=={found[name]}" for name in sorted(found)]


def bentofile(model: model_record.ServedModel) -> dict[str, object]:
    """Return BentoML's build file; only images install its packages."""
    return {
        "service": SERVICE,
        "name": model.name,
        "include": [
            "*.onnx", model_record.CONFIG, "minivess/", "README.md", "Dockerfile", PINS,
        ],
        "labels": {"project": "minivess", **{k: label_value(v) for k, v in model.lineage.items()}},
        # Locking asks the package index; these versions are exact already.
        "python": {"requirements_txt": PINS, "lock_packages": False},
    }  # fmt: skip


def bento_name(name: str) -> str:
    """Convert a name to what BentoML's tags allow: lower case letters, digits, `.`, `_`, `-`."""
    return re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("._-")[:63] or "model"


def label_value(value: str) -> str:
    """Convert a value to what BentoML's labels allow."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", value).strip("._-")[:63]


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of BentoML processes: silent, with a home of their own."""
    home = bento_home(folder)
    home.mkdir(parents=True, exist_ok=True)
    # BentoML installs missing packages into the running environment, which must not change.
    tokens = config.environment().token_file
    file = {"MINIVESS_TOKEN_FILE": str(tokens.absolute())} if tokens else {}
    return config.child_environment(BENTOML_HOME=str(home), PIP_NO_INDEX="1", **file)


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
