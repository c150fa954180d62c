"""Content keys: two results with one key are the same result. Standard library only."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

Ingredients = dict[str, Any]

FORMATS = ("data/formats", "units.py")  # of data, what makes arrays of files
MODELS = ("networks.py", "architectures.py", "inference.py", "evaluation")
CHECKS = (*FORMATS, "data/profiling", "data/checks.py", "data/checks.toml")
# What a version holds is decided by all of data but its pages.
DATA_CODE = ("data", "-data/pages", "units.py")
CELL_CODE = (
    *FORMATS, *MODELS, "losses.py", "loss_terms.py", "soft_skeleton.py", "training",
    "-training/monitoring", "-training/speed_probe.py", "compute", "-compute/reporting",
)  # fmt: skip
PREDICTION_CODE = ("analysis/predictions.py", *MODELS)
ANALYSIS_CODE = ("analysis", *MODELS)
DEPLOYMENT_CODE = (*CHECKS, *MODELS, "serving")  # a service reads and checks files as well
NUMERIC_PACKAGES = ("torch", "monai", "numpy")
KNOWN_PACKAGES = ("minivess", "monai", "torch")
"""Import paths into these name no code of the researcher's own."""


def digest(value: Any) -> str:
    """blake2b-128 of canonical JSON, 32 hexadecimal digits."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.blake2b(canonical.encode(), digest_size=16).hexdigest()


@cache
def code(parts: tuple[str, ...]) -> dict[str, str]:
    """File name -> digest of its syntax tree, without docstrings, comments and formatting.

    `parts` are files and folders of the package `minivess`, `-folder` one of those that does not
    count; they are read once by a process that has loaded them.
    """
    package = Path(__file__).parent
    counted = {file for part in parts for file in _sources(package / part)}
    left_out = {
        file
        for part in parts
        if part.startswith("-")
        for file in _sources(package / part.removeprefix("-"))
    }
    return {
        file.relative_to(package).as_posix(): source_digest(file)
        for file in sorted(counted - left_out)
    }


def _sources(part: Path) -> list[Path]:
    kinds = ("*.py", "*.j2", "*.toml")
    return [part] if part.is_file() else [file for kind in kinds for file in part.rglob(kind)]


def source_digest(file: Path) -> str:
    """Digest of what one source file does; other files count byte for byte."""
    if file.suffix != ".py":
        return hashlib.blake2b(file.read_bytes(), digest_size=16).hexdigest()
    tree = ast.parse(file.read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            _drop_docstring(node)
    return hashlib.blake2b(ast.dump(tree).encode(), digest_size=16).hexdigest()


def _drop_docstring(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef,
) -> None:
    if node.body and ast.get_docstring(node, clean=False) is not None:
        node.body = node.body[1:]


def versions(packages: Iterable[str] = NUMERIC_PACKAGES) -> dict[str, str]:
    """Installed versions, read without importing the packages."""
    return {name: importlib.metadata.version(name) for name in packages}


def own_modules(paths: Iterable[str]) -> dict[str, str]:
    """Import path module:callable -> hash of its file, for code that is the researcher's."""
    found = {}
    for path in sorted(set(paths)):
        module = path.partition(":")[0]
        if module.split(".")[0] not in KNOWN_PACKAGES:
            found[path] = _file_hash(module)
    return found


def _file_hash(module: str) -> str:
    # find_spec imports parent packages only, not the researcher's module itself.
    import importlib.util

    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return "missing"
    return hashlib.blake2b(Path(spec.origin).read_bytes(), digest_size=16).hexdigest()


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What changed between two sets of ingredients, dotted, in reading order."""
    found: list[str] = []
    for name in sorted(set(old) | set(new)):
        before, after = old.get(name), new.get(name)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found += differences(before, after, f"{prefix}{name}: ")
        elif before != after:
            found.append(f"{prefix}{name}")
    return found
