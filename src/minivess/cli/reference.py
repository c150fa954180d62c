"""What can be typed: settings with their defaults, words explained, completion for shells."""

from __future__ import annotations

import argparse
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from minivess import config as configs
from minivess import errors
from minivess.cli.grammar import format_setting
from minivess.cli.new import KINDS
from minivess.config import ExperimentConfig
from minivess.errors import UsageError, nearest
from minivess.home import Home
from minivess.runtime import output
from minivess.verbs import ACTIONS, OPTIONS, PAGES, ROWS, SERVER_ACTIONS, VERBS

Outcome = dict[str, Any]
Options = argparse.Namespace
SHELLS = ("bash", "zsh")
WORDS = "words"
OF_MODELS = ("promote", "compare", "drift")
NEWEST = "SELECT run_uuid FROM runs ORDER BY start_time DESC LIMIT 200"


# --- settings -----------------------------------------------------------------------------


def settings(_: ExperimentConfig, options: Options) -> Outcome:
    """Print the settings of some parts, or all, each with default, meaning and values.

    Raises:
        UsageError: a part that there is not.
    """
    parts = {part for key in configs.leaves() for part in (key, key.rpartition(".")[0]) if part}
    for part in set(options.arguments) - parts:
        near = nearest(part, parts)
        raise UsageError(
            f"`minivess settings` takes parts and names of settings, and {part!r} is none.",
            remedy=f"did you mean {near}?" if near else "minivess settings, which lists all",
        )
    keys = [key for key in configs.leaves() if _is_asked(key, options.arguments)]
    for key in keys:
        output.print_for(options, "\n".join(format_setting(key)))
    return {"settings": [_fields(key) for key in keys]}


def _is_asked(key: str, parts: Sequence[str]) -> bool:
    return not parts or any(f"{key}.".startswith(f"{part}.") for part in parts)


def _fields(key: str) -> dict[str, Any]:
    field = configs.field_of(key)
    assert field is not None
    return {
        "key": key,
        "default": configs.example(key),
        "meaning": field.description,
        "values": configs.taken(field.annotation, field.metadata),
        "changes_results": (field.json_schema_extra or {}) != {"counts": False},
        "verbs": [verb for verb, row in VERBS.items() if row.reads(key)],
    }


def explain(_: ExperimentConfig, options: Options) -> Outcome:
    """Say what a setting does and who reads it, or what a code means and asks for.

    Raises:
        UsageError: it is neither.
    """
    (word,) = options.arguments
    if word in codes():
        return {"code": word, **_explain_code(word, partial(output.print_for, options))}
    keys = list(configs.leaves())
    found = [key for key in keys if word in (key, key.rpartition(".")[2])]
    for key in found:
        fields = _fields(key)
        output.print_for(options, "\n".join(format_setting(key)))
        effect = "another value trains again" if fields["changes_results"] else "changes no result"
        output.print_for(options, f"      {effect}; read by minivess {', '.join(fields['verbs'])}")
    if not found:
        near = nearest(word, [*codes(), *keys, *(key.rpartition(".")[2] for key in keys)])
        raise UsageError(
            f"{word!r} is no setting and no code of a check or an error.",
            remedy=f"did you mean {near}?"
            if near
            else "minivess settings, which lists settings; codes stand in docs/checks.md",
        )
    return {"settings": [_fields(key) for key in found]}


def codes() -> list[str]:
    """Every code that can be explained: of checks, of errors, and of MLflow."""
    from minivess.data.checks import CHECKS

    return [*CHECKS, *errors.texts()]


def _explain_code(code: str, say: Callable[[str], None]) -> Outcome:
    from minivess.data.checks import CHECKS

    if code in errors.texts():
        texts: Outcome = dict(errors.texts()[code])
        say(f"  {code}: {texts['meaning']}")
        say(f"  Try: {texts['remedy']}")
        return texts
    check = CHECKS[code]
    say(f"  {code} ({', '.join(check.severities)}): {check.meaning}")
    say(f"  Try: {check.remedy}")
    if check.at_prediction:
        say(f"  In predict: {check.at_prediction}")
    return check.model_dump()


# --- completion ---------------------------------------------------------------------------


def completion(_: ExperimentConfig, options: Options) -> Outcome:
    """Print the script that makes a shell complete words, or for it the words that fit a line.

    Raises:
        UsageError: another shell.
    """
    shell, *line = options.arguments
    if shell == WORDS and line:
        for word in fitting(line[0], configs.environment().home):
            output.print_for(options, word)
    elif shell in SHELLS and not line:
        script = Path(__file__).with_name("templates") / "completion.sh"
        text = script.read_text(encoding="utf-8").replace("SHELL_NAME", shell)
        output.print_for(options, text.rstrip())
    else:
        raise UsageError(
            f"`minivess completion` takes {' or '.join(SHELLS)}, not {shell!r}.",
            remedy="source <(minivess completion bash)",
        )
    return {}


def fitting(line: str, home: Path) -> list[str]:
    """The words that may stand at the end of a line of a shell."""
    *before, typed = line.lstrip().split(" ")[1:] or [""]
    return sorted({word for word in _words(before, typed, home) if word.startswith(typed)})


def _words(before: Sequence[str], typed: str, home: Path) -> Iterator[str]:
    if not before:
        yield from VERBS
        return
    name = " ".join(before[:2]) if " ".join(before[:2]) in ROWS else before[0]
    row = ROWS.get(name, VERBS["help"])
    key, equals, _ = typed.partition("=")
    if typed.startswith("--"):
        yield from (f"--{option}" for option in row.accepts() if option in OPTIONS)
    elif equals:
        yield from (f"{key}={value}" for value in _values(key))
    elif before[-1] in ("--upstream", "--faults") or row.takes_ids or name in OF_MODELS:
        yield from _rows(home, "SELECT name || '@' || alias FROM registered_model_aliases")
        if name not in OF_MODELS:
            yield from _rows(home, NEWEST)
        yield from PAGES if name == "open" else ()
    else:
        yield from _bare(name)
        yield from (f"{key}=" for key in configs.leaves() if row.reads(key))


def _bare(name: str) -> Iterator[str]:
    keys = list(configs.leaves())
    yield from {
        "help": list(VERBS), "review": list(ACTIONS), "serve": list(SERVER_ACTIONS),
        "explain": [*keys, *codes()],
        "settings": sorted({key.partition(".")[0] for key in keys}), "completion": SHELLS,
        "new": KINDS,
    }.get(name, ())  # fmt: skip


def _values(key: str) -> Iterator[str]:
    """Values of a setting that can be listed: names of files, words, true and false."""
    if key in configs.SHELVES:
        yield from configs.names(configs.SHELVES[key])
    field = configs.field_of(key)
    kind = field.annotation if field is not None else None
    for one in (kind, *get_args(kind)):
        if get_origin(one) is Literal:
            yield from map(str, get_args(one))
        elif one is bool:
            yield from ("true", "false")


def _rows(home: Path, query: str) -> Iterator[str]:
    """Names in MLflow's database; a shell waits, so MLflow itself is not imported."""
    database = home / Home.places()["mlflow.db"].name
    if database.is_file():
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            yield from (name for (name,) in connection.execute(query))
