"""Commands as they are printed and documented, held against the grammar."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from minivess.cli import grammar
from minivess.verbs import ROWS, VERBS

QUOTED = r"'[^'\n]*'|\"[^\"\n]*\""
AUTOMATIONS = "new (?:data to profile|profile to training)"  # names in deployments/prefect.yaml
COMMAND = re.compile(
    rf"(?<![\w./-])(?:minivess|just) (?!{AUTOMATIONS})({'|'.join(VERBS)})(?![\w-])"
    rf"((?= )(?:{QUOTED}|(?!  )[^`\n;,()|'\"])*)?"
)
VALUE = "7"
BARE = {
    "URL": "http://x",
    "RUN_ID_OR_BUNDLE": "run",
    "DIR_OR_FILE.json": "folder",
    "KIND": "model",
    "NAME": "my_net",
    "SETTING_OR_CODE": "training.folds",
    "SHELL": "bash",
    "FOLDER": "/data/vessels",
}


def bare_words(name: str) -> list[str]:
    """Bare words that a row of the grammar takes."""
    outside = ROWS[name].bare.partition("[")[0].replace("...", "").split()
    return [BARE.get(word, word) for word in outside]


def commands(text: str) -> Iterator[list[str]]:
    """The words behind `minivess` or `just` of every command in a text."""
    for verb, rest in COMMAND.findall(text):
        words = shlex.split(rest.partition(" #")[0].replace("...", ""))
        yield [verb, *(word for word in words if word not in ("[FILE.yaml]", "[key=value", "]"))]


def check(words: list[str]) -> None:
    """Refuse a command that the grammar refuses; a verb alone stands for its whole usage."""
    name, *rest = words
    # A value that stands alone or at an end is a file or several words, not known here.
    if rest[4:] and rest[-1] == VALUE:
        rest.pop()
    if not VERBS[name].bare:
        pairs = zip(words, rest, strict=False)
        rest = [word for before, word in pairs if word != VALUE or before.startswith("--")]
    if rest and name != "help" and rest[0] != VALUE:
        grammar.refuse_unused(grammar.read([name, *rest]))


def strings(module: Path) -> Iterator[str]:
    """What a module may print: its string literals, docstrings left out; a value shows as 7."""
    tree = ast.parse(module.read_text(encoding="utf-8"))
    inside = {
        id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)
        for part in ast.walk(node) if part is not node
    }  # fmt: skip
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if id(node) in inside | docs:
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            parts = (p.value if isinstance(p, ast.Constant) else VALUE for p in node.values)
            yield "".join(map(str, parts))
