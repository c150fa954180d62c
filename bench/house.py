"""Size and shape of src and flows: rooms, functions, circles of imports, docstrings.

A line of code is one that is neither blank nor a comment nor part of a docstring. Imports inside
functions count for the circles, those under TYPE_CHECKING do not.
"""

from __future__ import annotations

import ast
import io
import statistics
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grimp

CLONE = Path(__file__).resolve().parents[1]
PACKAGES = {"minivess": CLONE / "src" / "minivess", "flows": CLONE / "flows"}
LAYOUT = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
    tokenize.ENDMARKER,
}  # fmt: skip
SECTIONS = ("Args:", "Returns:", "Raises:")
Function = ast.FunctionDef | ast.AsyncFunctionDef


def texts(tree: ast.AST) -> set[int]:
    """Lines of texts that stand alone: docstrings, and texts below an attribute."""
    alone = (n for n in ast.walk(tree) if isinstance(n, ast.Expr))
    return {
        line for node in alone if isinstance(node.value, ast.Constant)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }  # fmt: skip


def code_lines(text: str) -> set[int]:
    """Numbers of the lines that hold code."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    code = {n for t in tokens if t.type not in LAYOUT for n in range(t.start[0], t.end[0] + 1)}
    return code - texts(ast.parse(text))


def functions(tree: ast.AST) -> Iterator[Function]:
    """All functions and methods."""
    return (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))


def length(function: Function) -> int:
    """Lines from `def` to the end, docstring left out."""
    end = function.end_lineno or function.lineno
    return end - function.lineno + 1 - len(texts(function))


def parameters(function: Function) -> int:
    """Number of named parameters; `self` and `cls` are none."""
    given = function.args
    named = {each.arg for each in (*given.posonlyargs, *given.args, *given.kwonlyargs)}
    return len(named - {"self", "cls"})


def imports_in_functions(tree: ast.AST) -> int:
    """Import statements inside functions, each counted once."""
    inside = (node for function in functions(tree) for node in ast.walk(function))
    return len({n.lineno for n in inside if isinstance(n, ast.Import | ast.ImportFrom)})


def circles() -> list[list[str]]:
    """Groups of modules that import each other, directly or through others."""
    graph = grimp.build_graph(*PACKAGES, exclude_type_checking_imports=True, cache_dir=None)
    groups = {
        frozenset(
            graph.find_upstream_modules(module) & graph.find_downstream_modules(module) | {module}
        )
        for module in graph.modules
    }
    return sorted(sorted(group) for group in groups if len(group) > 1)


def main() -> None:
    """Print the tables."""
    rooms: Counter[str] = Counter()
    trees: list[ast.Module] = []
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            inside = path.relative_to(folder).parts
            room = package if len(inside) == 1 else f"{package}/{inside[0]}"
            rooms[room] += len(code_lines(text))
            trees.append(ast.parse(text))
    every = [function for tree in trees for function in functions(tree)]
    docs = [ast.get_docstring(f) or "" for f in every if not f.name.startswith("_")]
    lengths = sorted(length(function) for function in every)
    named = sorted(parameters(function) for function in every)
    print("| room | lines of code |\n|---|---|")
    for room, size in sorted(rooms.items()):
        print(f"| {room} | {size:,} |")
    print(f"| all, in {len(trees)} files | {sum(rooms.values()):,} |\n")
    tenth = statistics.quantiles(lengths, n=10)[-1]
    print("| what | figure |\n|---|---|")
    for what, figure in {
        "functions; lines at the median, 90th percentile, longest":
            f"{len(every):,}; {statistics.median(lengths):.0f} / {tenth:.0f} / {lengths[-1]}",
        "parameters of a function: mean, most": f"{statistics.mean(named):.1f}, {named[-1]}",
        "functions of more than 8 parameters": len([count for count in named if count > 8]),
        "imports inside functions": sum(imports_in_functions(tree) for tree in trees),
        "docstrings of public functions": len([text for text in docs if text]),
        **{f"of these with {s}": len([text for text in docs if s in text]) for s in SECTIONS},
        "circles of imports": len(found := circles()),
    }.items():  # fmt: skip
        print(f"| {what} | {figure} |")
    for group in found:
        print(f"\ncircle of {len(group)}: {', '.join(group)}")


if __name__ == "__main__":
    main()
