"""Environment of a run: machine, software, code version. No collector can raise."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import io
import logging
import os
import platform
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from minivess import config
from minivess.compute import hardware
from minivess.runtime import git
from minivess.tracking.run import required_fields

NOT_INSTALLED, NONE, UNKNOWN = "not_installed", "none", "unknown"
LIBRARIES = ("torch", "monai", "torchio", "torchmetrics", "mlflow", "prefect", "numpy")
MONAI_FRIENDS = (
    "monai", "numpy", "torch", "nibabel", "scikit-image", "scipy", "pillow", "tensorboard",
    "pytorch-ignite", "itk", "gdown", "torchvision", "tqdm", "lmdb", "psutil", "pandas", "einops",
    "transformers", "mlflow", "pynrrd", "clearml",
)  # fmt: skip
GIT_SECONDS = 5
DIFF_LIMIT = 5_000_000
NEW_FILE_LIMIT = 1_000_000
# Lines that mark an incomplete git.diff.
LEFT_OUT, CUT = "# left out, too large:", "# cut here"
NO_GPU = {"gpu_count": "0"} | dict.fromkeys(
    ("gpu_model", "gpu_vram_mb", "gpu_driver_version"), NONE
)
NO_GIT = {"diff": ""} | dict.fromkeys(
    ("git_commit", "git_commit_short", "git_branch", "git_dirty"), UNKNOWN
)
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Surroundings:
    """Environment that every run records: `sys_*` params, files, further facts."""

    params: dict[str, str]
    files: dict[str, str]
    info: dict[str, Any]


@cache
def collect() -> Surroundings:
    """Collect once per process: the code that runs is the code that was imported."""
    repository = _safe(_git, NO_GIT)
    params = (
        dict.fromkeys(required_fields.SYS, UNKNOWN)
        | _safe(_software, {})
        | _safe(_machine, {})
        | _safe(_gpus, NO_GPU)
        | {name: value for name, value in repository.items() if name != "diff"}
    )
    files = {
        "frozen_deps.txt": _safe(frozen_dependencies, ""),
        "git.diff": repository["diff"],
    }
    return Surroundings({f"sys_{k}": v for k, v in params.items()}, files, _safe(system_info, {}))


def _safe(collector: Callable[[], Any], fallback: Any) -> Any:
    try:
        return collector()
    except Exception:
        log.warning("Could not collect %s.", collector.__name__, exc_info=True)
        return fallback


# --- software -----------------------------------------------------------------------------


def _software() -> dict[str, str]:
    versions = {f"{name}_version": package_version(name) for name in LIBRARIES}
    return {"python_version": platform.python_version(), **versions, **_cuda()}


def package_version(package: str) -> str:
    """Return the installed version of a package without importing it."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return NOT_INSTALLED


def _cuda() -> dict[str, str]:
    if package_version("torch") == NOT_INSTALLED:
        return {"cuda_version": NOT_INSTALLED, "cudnn_version": NOT_INSTALLED}
    cuda = _torch_build().get("cuda") or NONE
    return {"cuda_version": str(cuda), "cudnn_version": NONE if cuda == NONE else _cudnn()}


def _torch_build() -> dict[str, Any]:
    """Read torch/version.py: importing torch takes seconds."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return {}
    source = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    values: dict[str, Any] = {}
    exec(compile(source, "torch/version.py", "exec"), values)
    return values


def _cudnn() -> str:
    torch = sys.modules.get("torch")
    if torch is not None:
        return str(torch.backends.cudnn.version() or NONE)
    packages = importlib.metadata.packages_distributions().get("nvidia", [])
    found = next((name for name in packages if "cudnn" in name), None)
    return package_version(found) if found else UNKNOWN


def frozen_dependencies() -> str:
    """Return every installed distribution, one `name==version` per line."""
    found = {
        f"{dist.metadata['Name']}=={dist.version}" for dist in importlib.metadata.distributions()
    }
    return "\n".join(sorted(found, key=str.lower)) + "\n"


def monai() -> str:
    """Return the output of MONAI's `print_config`; only versions if MONAI is not imported."""
    return str(_safe(_monai_config, ""))


def _monai_config() -> str:
    if "monai.config" in sys.modules:
        printed = io.StringIO()
        sys.modules["monai.config"].print_config(file=printed)
        return printed.getvalue()
    lines = [f"{name} version: {package_version(name)}" for name in MONAI_FRIENDS]
    return "\n".join(lines) + "\n"


# --- machine ------------------------------------------------------------------------------


def _machine() -> dict[str, str]:
    return {
        "os": platform.system(),
        "os_kernel": platform.release(),
        "hostname": socket.gethostname(),
        "total_ram_gb": f"{psutil.virtual_memory().total / 2**30:.1f}",
        "cpu_model": hardware.cpu_model(),
    }


def _gpus() -> dict[str, str]:
    import pynvml

    driver, found = hardware.gpus(pynvml)
    if not found:
        return NO_GPU
    return {
        "gpu_count": str(len(found)),
        "gpu_model": _joined(gpu.model for gpu in found),
        "gpu_vram_mb": _joined(str(int(gpu.vram_gb * 1024)) for gpu in found),
        "gpu_driver_version": driver or UNKNOWN,
    }


def _joined(texts: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(texts))


def system_info() -> dict[str, Any]:
    """Return details of the machine and the command; sizes in bytes."""
    return {
        "platform": platform.platform(),
        "machine": platform.machine(),
        "python": sys.version,
        "executable": sys.executable,
        "cores_logical": os.cpu_count(),
        "cores_physical": psutil.cpu_count(logical=False),
        "memory": psutil.virtual_memory()._asdict(),
        "swap": psutil.swap_memory()._asdict(),
        "disk": psutil.disk_usage(str(Path.cwd()))._asdict(),
        "command": sys.argv,
    }


# --- code version -------------------------------------------------------------------------


def _git() -> dict[str, str]:
    package = Path(config.__file__).parent
    commit = _answer(package, "rev-parse", "HEAD") if git.tracks(package, "__init__.py") else None
    if commit is None:
        return NO_GIT | _of_image()
    short = _answer(package, "rev-parse", "--short", "HEAD") or commit[:7]
    branch = _answer(package, "symbolic-ref", "--quiet", "--short", "HEAD")
    status = _answer(package, "status", "--porcelain", ":/")
    return {
        "git_commit": commit,
        "git_commit_short": short,
        "git_branch": branch or f"HEAD (detached at {short})",
        "git_dirty": UNKNOWN if status is None else str(bool(status)),
        "diff": _difference(package) if status else "",
    }


def _of_image() -> dict[str, str]:
    """The commit that an image was built from, which holds no repository."""
    stated = config.environment().git_commit or UNKNOWN
    commit = stated.removesuffix("-dirty")
    dirty = UNKNOWN if commit == UNKNOWN else str(commit != stated)
    return {"git_commit": commit, "git_commit_short": commit[:7], "git_dirty": dirty}


def _difference(package: Path) -> str:
    """The patch from the commit to the working tree: changed files, and small new ones.

    New files are marked in a copy of the index, so that the user's own stays as it is.
    """
    root = Path(_answer(package, "rev-parse", "--show-toplevel") or package)
    listed = git.run(root, "ls-files", "--others", "--exclude-standard", "-z", timeout=GIT_SECONDS)
    new = [name for name in listed.stdout.split("\0") if name]
    large = [name for name in new if (root / name).stat().st_size > NEW_FILE_LIMIT]
    with tempfile.TemporaryDirectory(prefix="minivess-") as folder:
        how: Any = {"timeout": GIT_SECONDS, "GIT_INDEX_FILE": f"{folder}/index"}
        own = _answer(root, "rev-parse", "--path-format=absolute", "--git-path", "index")
        if own and Path(own).is_file():
            # With its time, by which git knows files that were changed right after it was written.
            shutil.copy2(own, how["GIT_INDEX_FILE"])
        small = [name for name in new if name not in large]
        if small:
            git.run(root, "add", "--intent-to-add", "--", *small, **how)
        words = ("diff", "HEAD", "--binary", "--no-color", "--no-ext-diff")
        diff = git.run(root, *words, **how).stdout
    left = "".join(f"{LEFT_OUT} {name}\n" for name in large)
    return left + (diff if len(diff) <= DIFF_LIMIT else f"{diff[:DIFF_LIMIT]}\n{CUT}\n")


def _answer(folder: Path, *words: str) -> str | None:
    return git.answer(folder, *words, timeout=GIT_SECONDS)
