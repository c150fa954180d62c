"""The surroundings of a run: machine, software, code version. No collector can raise."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import io
import logging
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from minivess import config
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
# Lines of git.diff that say that it is not the whole difference.
LEFT_OUT, CUT = "# left out, too large:", "# cut here"
NO_VARIABLES: Mapping[str, str] = MappingProxyType({})
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Surroundings:
    """What every run records unasked."""

    params: dict[str, str]
    files: dict[str, str]
    info: dict[str, Any]


@cache
def collect() -> Surroundings:
    """Measure once per process; the code that runs is the code that was imported."""
    repository = _git()
    params = (
        dict.fromkeys(required_fields.SYS, UNKNOWN)
        | _safe(_software, {})
        | _safe(_machine, {})
        | _safe(_gpus, _no_gpu())
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
    versions = {f"{name}_version": version(name) for name in LIBRARIES}
    return {"python_version": platform.python_version(), **versions, **_cuda()}


def version(package: str) -> str:
    """The installed version, read without importing the package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return NOT_INSTALLED


def _cuda() -> dict[str, str]:
    if version("torch") == NOT_INSTALLED:
        return {"cuda_version": NOT_INSTALLED, "cudnn_version": NOT_INSTALLED}
    cuda = _torch_build().get("cuda") or NONE
    return {"cuda_version": str(cuda), "cudnn_version": NONE if cuda == NONE else _cudnn()}


def _torch_build() -> dict[str, Any]:
    """What torch/version.py says; running that file costs nothing, importing torch seconds."""
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
    return version(found) if found else UNKNOWN


def frozen_dependencies() -> str:
    """Every installed distribution, one `name==version` a line."""
    found = {
        f"{dist.metadata['Name']}=={dist.version}" for dist in importlib.metadata.distributions()
    }
    return "\n".join(sorted(found, key=str.lower)) + "\n"


def monai() -> str:
    """What MONAI's own `print_config` says, once it is imported; until then versions alone."""
    return str(_safe(_monai_config, ""))


def _monai_config() -> str:
    if "monai.config" in sys.modules:
        printed = io.StringIO()
        sys.modules["monai.config"].print_config(file=printed)
        return printed.getvalue()
    lines = [f"{name} version: {version(name)}" for name in MONAI_FRIENDS]
    return "\n".join(lines) + "\n"


# --- machine ------------------------------------------------------------------------------


def _machine() -> dict[str, str]:
    import psutil

    return {
        "os": platform.system(),
        "os_kernel": platform.release(),
        "hostname": socket.gethostname(),
        "total_ram_gb": f"{psutil.virtual_memory().total / 2**30:.1f}",
        "cpu_model": cpu_model(),
    }


def cpu_model() -> str:
    """From the platform, then /proc/cpuinfo, then `unknown`."""
    name = platform.processor()
    if name and name != platform.machine():
        return name
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        return UNKNOWN
    return UNKNOWN


def _no_gpu() -> dict[str, str]:
    return {
        "gpu_count": "0", "gpu_model": NONE, "gpu_vram_mb": NONE, "gpu_driver_version": NONE,
    }  # fmt: skip


def _gpus() -> dict[str, str]:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return _no_gpu()
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        if not handles:
            return _no_gpu()
        return {
            "gpu_count": str(len(handles)),
            "gpu_model": _joined([pynvml.nvmlDeviceGetName(handle) for handle in handles]),
            "gpu_vram_mb": _joined(
                [pynvml.nvmlDeviceGetMemoryInfo(handle).total // 2**20 for handle in handles]
            ),
            "gpu_driver_version": _joined([pynvml.nvmlSystemGetDriverVersion()]),
        }
    finally:
        pynvml.nvmlShutdown()


def _joined(values: list[Any]) -> str:
    texts = [value.decode() if isinstance(value, bytes) else str(value) for value in values]
    return ", ".join(dict.fromkeys(texts))


def system_info() -> dict[str, Any]:
    """More about the machine than fits params; sizes in bytes."""
    import psutil

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
    nothing = {
        "git_commit": UNKNOWN, "git_commit_short": UNKNOWN, "git_branch": UNKNOWN,
        "git_dirty": UNKNOWN, "diff": "",
    }  # fmt: skip
    found: dict[str, str] = _safe(lambda: _repository(nothing), nothing)
    return found


def _repository(nothing: dict[str, str]) -> dict[str, str]:
    package = Path(config.__file__).parent
    git = shutil.which("git")
    # An installed copy inside somebody else's repository is no part of that repository.
    if git is None or _run(git, package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return nothing
    commit = _run(git, package, "rev-parse", "HEAD")
    if commit is None:
        return nothing
    short = _run(git, package, "rev-parse", "--short", "HEAD") or commit[:7]
    branch = _run(git, package, "symbolic-ref", "--quiet", "--short", "HEAD")
    status = _run(git, package, "status", "--porcelain", ":/")
    return {
        "git_commit": commit,
        "git_commit_short": short,
        "git_branch": branch or f"HEAD (detached at {short})",
        "git_dirty": UNKNOWN if status is None else str(bool(status)),
        "diff": _difference(git, package) if status else "",
    }


def _difference(git: str, package: Path) -> str:
    """What `git apply` makes of the commit what lies here: changed files, and new small ones.

    New files are marked in a copy of the index, so that the user's own stays as it is.
    """
    root = Path(_run(git, package, "rev-parse", "--show-toplevel") or package)
    listed = _run(git, root, "ls-files", "--others", "--exclude-standard", "-z", strip=False) or ""
    new = [name for name in listed.split("\0") if name]
    large = [name for name in new if (root / name).stat().st_size > NEW_FILE_LIMIT]
    with tempfile.TemporaryDirectory(prefix="minivess-") as folder:
        index = {"GIT_INDEX_FILE": f"{folder}/index"}
        own = _run(git, root, "rev-parse", "--path-format=absolute", "--git-path", "index")
        if own and Path(own).is_file():
            # With its time, by which git knows files that were changed right after it was written.
            shutil.copy2(own, index["GIT_INDEX_FILE"])
        small = [name for name in new if name not in large]
        if small:
            _run(git, root, "add", "--intent-to-add", "--", *small, variables=index)
        words = ("diff", "HEAD", "--binary", "--no-color", "--no-ext-diff")
        diff = _run(git, root, *words, strip=False, variables=index) or ""
    left = "".join(f"{LEFT_OUT} {name}\n" for name in large)
    return left + (diff if len(diff) <= DIFF_LIMIT else f"{diff[:DIFF_LIMIT]}\n{CUT}\n")


def _run(
    git: str,
    folder: Path,
    *words: str,
    strip: bool = True,
    variables: Mapping[str, str] = NO_VARIABLES,
) -> str | None:
    """What git prints, or None if it fails; it takes no locks, so other gits are not disturbed."""
    done = subprocess.run(
        [git, "-C", str(folder), *words],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=GIT_SECONDS,
        check=False,
        stdin=subprocess.DEVNULL,
        env=config.child_environment(GIT_OPTIONAL_LOCKS="0", GIT_TERMINAL_PROMPT="0", **variables),
    )
    if done.returncode != 0:
        return None
    return done.stdout.strip() if strip else done.stdout
