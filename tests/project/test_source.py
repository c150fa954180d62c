"""What no linter finds: a dictionary written with one key twice loses the first value silently.

Ruff's F601 compares literals and plain names; most of ours are attributes, such as `names.CELL`.
"""

from __future__ import annotations

import ast
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from minivess.tracking.run import required_fields

CLONE = Path(__file__).resolve().parents[2]
FOLDERS = ("src", "flows", "bench", "tests", ".just", ".ci")


def doubled(source: str) -> Iterator[str]:
    """Keys that a dictionary holds twice."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Dict):
            keys = Counter(ast.unparse(key) for key in node.keys if key is not None)
            yield from (key for key, count in keys.items() if count > 1)


def test_no_dictionary_is_written_with_one_key_twice() -> None:
    code = [path for folder in FOLDERS for path in (CLONE / folder).rglob("*.py")]
    assert len(code) > 100
    found = {str(path): list(doubled(path.read_text(encoding="utf-8"))) for path in code}
    assert {path: keys for path, keys in found.items() if keys} == {}


def test_a_kind_of_run_that_had_two_contracts_would_be_found() -> None:
    assert list(doubled("{names.CELL: 1, names.REFIT: 2}")) == []
    assert list(doubled("{names.CELL: 1, names.CELL: 2}")) == ["names.CELL"]
    source = Path(required_fields.__file__).with_suffix(".toml").read_text(encoding="utf-8")
    assert tomllib.loads(source) == required_fields.TABLES
    with pytest.raises(tomllib.TOMLDecodeError):
        tomllib.loads(source.replace("[kinds.refit]", "[kinds.cell]"))
