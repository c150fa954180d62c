"""Content keys: two results with one key are the same result. Standard library only."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

Ingredients = dict[str, Any]
PROSE = re.compile(r"\w[,.:;)'`\"]* [('`\"]*\w")
CODE = re.compile(r"(select|insert|update|delete|create|begin)\b|\[")  # SQL, sections of a file

FORMATS = ("formats", "units.py")  # what makes arrays of files
MODELS = ("networks.py", "architectures.py", "inference.py", "evaluation")
CHECKS = (*FORMATS, "data/profiling", "data/checks.py", "data/checks.toml")
# What a version holds is decided by all of data and by what review makes of decisions.
DATA_CODE = (*FORMATS, "data", "demo", "review", "-review/pages")
CELL_CODE = (
    *FORMATS, *MODELS, "losses.py", "loss_terms.py", "soft_skeleton.py", "training",
    "-training/monitoring", "-training/speed_probe.py", "compute", "-compute/reporting",
    "-compute/layout.py",
)  # fmt: skip
PROBABILITY_CODE = (*FORMATS, "networks.py", "architectures.py", "inference.py", "combination.py")
PREDICTION_CODE = ("analysis/predictions.py", "combination.py", *MODELS)
ANALYSIS_CODE = ("analysis", "morphometry", "combination.py", "-analysis/report", *MODELS)
PREDICTED_CODE = (
    *CHECKS,
    "networks.py",
    "architectures.py",
    "inference.py",
    "combination.py",
    "serving/predict.py",
)
# A service reads and checks files as well; what it stores and what is read from it decide no mask.
DEPLOYMENT_CODE = (*CHECKS, *MODELS, "serving", "-serving/request_log.py", "-serving/drift.py")
NUMERIC_PACKAGES = ("torch", "monai", "numpy")
KNOWN_PACKAGES = ("minivess", "monai", "torch")
"""Import paths into these name no code of the researcher's own."""


def digest(value: Any) -> str:
    """blake2b-128 of canonical JSON, 32 hexadecimal digits."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.blake2b(canonical.encode(), digest_size=16).hexdigest()


@cache
def code(parts: tuple[str, ...]) -> dict[str, str]:
    """File name -> digest of its syntax tree, without wording, comments and formatting.

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
    kinds = ("*.py", "*.toml")
    return [part] if part.is_file() else [file for kind in kinds for file in part.rglob(kind)]


def source_digest(file: Path) -> str:
    """Digest of what one source file does: wording, comments and formatting do not count."""
    if file.suffix == ".toml":
        return digest(_unworded(tomllib.loads(file.read_text(encoding="utf-8"))))
    tree = _Wordless().visit(ast.parse(file.read_bytes()))
    return hashlib.blake2b(ast.dump(tree).encode(), digest_size=16).hexdigest()


class _Wordless(ast.NodeTransformer):
    """Take out docstrings and sentences: text of two words or more, unless it is split."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        """A string that stands alone is a docstring."""
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            return None
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """`"a list of words".split()` is a table."""
        is_split = isinstance(node.func, ast.Attribute) and node.func.attr == "split"
        return node if is_split else self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        """Text that is written out."""
        return node if not isinstance(node.value, str) else _unless_prose(node, node.value)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        """Text with values in it, which count as words."""
        parts = (p.value if isinstance(p, ast.Constant) else "value" for p in node.values)
        return _unless_prose(node, "".join(map(str, parts)))


def _unless_prose(node: ast.expr, text: str) -> ast.AST:
    return ast.Constant("") if _is_prose(text) else node


def _is_prose(text: str) -> bool:
    return bool(PROSE.search(text)) and not CODE.match(text)


def _unworded(value: Any) -> Any:
    """A table of TOML without its sentences."""
    if isinstance(value, dict):
        return {key: _unworded(inside) for key, inside in value.items()}
    return "" if isinstance(value, str) and _is_prose(value) else value


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
