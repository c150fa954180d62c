"""Do the tests notice a changed line? `mutants src/minivess/data/splits.py tests/data`.

Changes one place of a module at a time (comparison, operator, constant, condition, `not`, returned
value), runs the given tests on each, and prints the share that a test notices and every change that
none does. A process that has imported the libraries is forked for each, so that one takes about as
long as the tests themselves. `--sample 40 --seed 0` draws some of the places.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import importlib
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

COMPARED = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
COMPUTED = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}  # fmt: skip
LIBRARIES = (
    "numpy", "scipy", "skimage.morphology", "torch", "monai", "pandas", "duckdb", "mlflow",
    "pytest", "pydantic", "hypothesis",
)  # fmt: skip
LIMIT_S = 300
HASTY = ("--hypothesis-profile=mutants",)
SLOWER, START_S = 5, 10
"""How many times as long as the unchanged module one may take, and seconds besides."""


def changes(node: ast.AST) -> Iterator[ast.AST]:
    """What may stand in place of one node."""
    changed = copy.deepcopy(node)
    match changed:
        case ast.Compare(ops=[operator]) if type(operator) in COMPARED:
            changed.ops = [COMPARED[type(operator)]()]
        case ast.BinOp(op=operator) if type(operator) in COMPUTED:
            changed.op = COMPUTED[type(operator)]()
        case ast.BoolOp(op=operator):
            changed.op = ast.Or() if isinstance(operator, ast.And) else ast.And()
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            changed = changed.operand
        case ast.Constant(value=bool(value)):
            changed.value = not value
        case ast.Constant(value=int(value) | float(value)):
            changed.value = value + 1
        case ast.IfExp() | ast.If():
            changed.test = ast.UnaryOp(ast.Not(), changed.test)
        case ast.Return(value=ast.expr()) if not is_false(changed.value):
            changed.value = ast.Constant(None)
        case _:
            return
    yield ast.copy_location(changed, node)


def is_false(node: ast.AST | None) -> bool:
    """Whether None in its place would be no change that a caller could notice."""
    return isinstance(node, ast.Constant) and node.value in (None, False)


class Replace(ast.NodeTransformer):
    """Puts one node in the place of another."""

    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        """Replace the node itself, else look below it."""
        return self.new if node is self.old else self.generic_visit(node)


def mutants(tree: ast.Module) -> Iterator[tuple[int, str, str]]:
    """Line, what stands there and what stands there instead, and the whole changed source."""
    typed = {
        below
        for node in ast.walk(tree)
        for name in ("annotation", "returns")
        if (note := getattr(node, name, None)) is not None
        for below in ast.walk(note)
    }
    for node in ast.walk(tree):
        for new in changes(node) if node not in typed else ():
            whole = ast.fix_missing_locations(Replace(node, new).visit(tree))
            source = ast.unparse(whole)
            Replace(new, node).visit(tree)
            before, after = (ast.unparse(one).split("\n")[0] for one in (node, new))
            yield getattr(node, "lineno", 0), f"{before}  ->  {after}", source


def is_noticed(path: Path, source: str, tests: list[str], limit_s: int = LIMIT_S) -> bool:
    """Whether the tests fail, or take too long, with this source in place of the module's."""
    child = os.fork()
    if not child:
        os.setsid()
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        signal.alarm(limit_s)
        os._exit(_run(path, source, tests))
    _, status = os.waitpid(child, 0)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    return status != 0


def _run(path: Path, source: str, tests: list[str]) -> int:
    import pytest
    from hypothesis import Phase, settings

    # The first example that fails is enough: none is made smaller.
    phases = (Phase.explicit, Phase.generate)
    settings.register_profile("mutants", phases=phases, database=None, deadline=None)
    read = importlib.machinery.SourceFileLoader.get_data

    def get_data(self: importlib.machinery.SourceFileLoader, name: str) -> bytes:
        if Path(name) == path:
            return source.encode()
        if Path(name).suffix == ".pyc" and f"/{path.stem}.cpython" in name:
            raise OSError(name)  # its compiled form is of the unchanged source
        return read(self, name)

    importlib.machinery.SourceFileLoader.get_data = get_data  # type: ignore[method-assign, assignment]
    sys.dont_write_bytecode = True
    return int(pytest.main(["-q", "-x", "-n0", "-p", "no:cacheprovider", *HASTY, *tests]))


def main() -> int:
    """Change, test, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("module", type=Path)
    parser.add_argument("tests", nargs="+")
    parser.add_argument("--sample", type=int)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    path = asked.module.resolve()
    for library in LIBRARIES:
        importlib.import_module(library)
    source = path.read_text(encoding="utf-8")
    begun = time.monotonic()
    if is_noticed(path, source, asked.tests):
        print("The tests fail on the unchanged module.")
        return 1
    limit_s = START_S + round(SLOWER * (time.monotonic() - begun))
    found = list(mutants(ast.parse(source)))
    drawn = random.Random(asked.seed).sample(found, min(asked.sample or len(found), len(found)))
    survived = []
    for line, what, changed in sorted(drawn):
        if not is_noticed(path, changed, asked.tests, limit_s):
            survived.append(what)
            print(f"  not noticed: {asked.module}:{line}  {what}", flush=True)
    share = 1 - len(survived) / len(drawn)
    print(f"{asked.module}: {len(drawn)} of {len(found)} changes tried, {share:.0%} noticed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
