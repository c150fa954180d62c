"""Content keys: equal for equal work, different for different work."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import grimp
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minivess
from minivess import keys

SCALARS = st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False)
JSON = st.recursive(
    SCALARS.filter(lambda value: value not in (float("inf"), float("-inf"))),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
TREES = st.dictionaries(st.text(), JSON, max_size=5)


def backwards(value: Any) -> Any:
    """The same JSON value, its mappings filled in the opposite order."""
    if isinstance(value, dict):
        return {name: backwards(value[name]) for name in reversed(value)}
    return [backwards(item) for item in value] if isinstance(value, list) else value


@given(TREES)
def test_the_order_of_names_does_not_matter(tree: dict[str, Any]):
    assert keys.digest(tree) == keys.digest(backwards(tree))


@given(TREES, st.text(), JSON)
def test_one_more_ingredient_gives_another_key(tree: dict[str, Any], name: str, value: Any):
    if name not in tree:
        assert keys.digest({**tree, name: value}) != keys.digest(tree)


@given(TREES)
def test_equal_ingredients_have_no_differences(tree: dict[str, Any]):
    assert keys.differences(tree, backwards(tree)) == []


def test_a_key_is_32_hexadecimal_digits():
    assert len(keys.digest({})) == 32
    assert int(keys.digest({}), 16) >= 0


def test_a_value_that_is_not_a_number_has_no_key():
    with pytest.raises(ValueError, match="JSON"):
        keys.digest({"loss": float("nan")})


def test_differences_name_the_path_of_what_changed():
    old = {"code": {"losses.py": "a", "networks.py": "b"}, "seed": 1}
    new = {"code": {"losses.py": "c", "networks.py": "b"}, "seed": 1, "fold": 0}
    assert keys.differences(old, new) == ["code: losses.py", "fold"]


def test_comments_docstrings_and_layout_leave_the_code_digest_alone(tmp_path: Path):
    plain, dressed = tmp_path / "a.py", tmp_path / "b.py"
    plain.write_text("def half(x):\n    return x / 2\n")
    dressed.write_text('"""About."""\n\ndef half( x ):\n    "Half."\n    # why\n    return x/2\n')
    assert keys.source_digest(plain) == keys.source_digest(dressed)


@pytest.mark.parametrize("body", ["return x / 3", "return x // 2", "return 'x / 2'"])
def test_another_statement_gives_another_code_digest(body: str, tmp_path: Path):
    first, second = tmp_path / "a.py", tmp_path / "b.py"
    first.write_text("def half(x):\n    return x / 2\n")
    second.write_text(f"def half(x):\n    {body}\n")
    assert keys.source_digest(first) != keys.source_digest(second)


COUNTED = sorted(
    name
    for parts in (keys.DATA_CODE, keys.CELL_CODE, keys.ANALYSIS_CODE, keys.DEPLOYMENT_CODE)
    for name in keys.code(parts)
    if name.endswith(".py")
)
PACKAGE = Path(minivess.__file__).parent
NUMBER = re.compile(r"(?<![\w.])(\d+)(?![\w.])")


class _Reworded(ast.NodeTransformer):
    """Say each sentence in other words."""

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        text = node.value if isinstance(node.value, str) else ""
        is_text = re.search(r"\w [a-z]+ \w", text) and not text.startswith(("select", "["))
        return ast.Constant(f"in other words: {text}") if is_text else node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """A list of words that is split stays."""
        is_split = isinstance(node.func, ast.Attribute) and node.func.attr == "split"
        return node if is_split else self.generic_visit(node)


@pytest.mark.parametrize("name", dict.fromkeys(COUNTED))
def test_another_wording_of_a_module_changes_no_key(name: str, tmp_path: Path):
    source, other = PACKAGE / name, tmp_path / "module.py"
    tree = _Reworded().visit(ast.parse(source.read_text()))
    other.write_text(ast.unparse(ast.fix_missing_locations(tree)))
    assert keys.source_digest(other) == keys.source_digest(source)


@pytest.mark.parametrize("name", dict.fromkeys(COUNTED))
def test_another_number_in_a_module_changes_the_key(name: str, tmp_path: Path):
    source, other = PACKAGE / name, tmp_path / "module.py"
    lines, before = source.read_text().splitlines(), keys.source_digest(source)
    code = {
        node.lineno
        for node in ast.walk(ast.parse(source.read_text()))
        if isinstance(node, ast.Constant) and type(node.value) in (int, float)
    }
    for number in sorted(code)[:5]:
        line = lines[number - 1].partition("#")[0]
        changed = NUMBER.sub(lambda found: str(int(found[1]) + 1), line)
        if changed == line or '"' in line:
            continue
        other.write_text("\n".join([*lines[: number - 1], changed, *lines[number:]]))
        assert keys.source_digest(other) != before, line


def test_of_a_table_severities_count_and_sentences_do_not(tmp_path: Path):
    def digest(severity: str, text: str) -> str:
        file = tmp_path / "table.toml"
        file.write_text(f'[constant]\nseverity = "{severity}"\nmeaning = "{text}"\n')
        return keys.source_digest(file)

    assert digest("error", "Every voxel is the same.") == digest("error", "All voxels are equal.")
    assert digest("error", "Every voxel is the same.") != digest("info", "Every voxel is the same.")


def test_the_code_of_a_room_is_every_file_in_it():
    room = Path(minivess.__file__).parent / "evaluation"
    inside = {f"evaluation/{file.relative_to(room)}" for file in room.rglob("*.py")}
    assert set(keys.code(("evaluation", "losses.py"))) == inside | {"losses.py"}


def test_the_code_of_cells_and_their_judges_exists():
    for parts in (keys.DATA_CODE, keys.CELL_CODE, keys.ANALYSIS_CODE, keys.DEPLOYMENT_CODE):
        found = keys.code(parts)
        assert all(
            any(name.startswith(part) for name in found) != left_out
            for part, left_out in ((part.removeprefix("-"), part[0] == "-") for part in parts)
        )


def modules(found: Iterable[str]) -> set[str]:
    """Files of the package as modules below `minivess`, without those that make a folder one."""
    files = (name.partition(".py") for name in found if not name.endswith("__init__.py"))
    return {name.replace("/", ".") for name, ending, _ in files if ending}


def test_cells_count_the_modules_of_data_that_training_imports_and_no_others():
    graph = grimp.build_graph("minivess", cache_dir=None)
    imported = graph.find_upstream_modules("minivess.training", as_package=True)
    counted = modules(keys.code(keys.CELL_CODE))
    for found in ({name.removeprefix("minivess.") for name in imported}, counted):
        read = {name for name in found if name.startswith(("data.", "formats.")) or name == "units"}
        assert read == modules(keys.code(keys.FORMATS))


def test_a_module_of_the_researcher_counts_with_its_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.syspath_prepend(tmp_path)
    module = tmp_path / "my_loss_of_this_test.py"
    module.write_text("def loss(): ...\n")
    path = "my_loss_of_this_test:loss"
    before = keys.own_modules([path, "monai.losses:DiceLoss"])
    module.write_text("def loss(): return 1\n")
    after = keys.own_modules([path])
    assert set(before) == {path}
    assert before != after
    assert "my_loss_of_this_test" not in sys.modules
