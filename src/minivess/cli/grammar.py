"""Parse a command line: each verb takes its own arguments, options and settings, and no others."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NoReturn

from minivess.errors import UsageError, nearest
from minivess.text import some
from minivess.verbs import ACTIONS, ACTIONS_OF, GROUPS, OPTIONS, PAGES, ROWS, VERBS, Verb, spelled

EPILOG = """\
examples:
  minivess experiment                                   demo data, a few minutes
  minivess experiment data.root=/data/vessels           own data, defaults for real work
  minivess plan data.root=/data/vessels                 check and forecast, train nothing
  minivess train training.max_epochs=5 training.losses=dice_ce,cbdice
  minivess experiment configs/experiments/lite.yaml data.root=/data/vessels
  minivess help train                                   its options and settings
"""


class Parser(argparse.ArgumentParser):
    """Argparse parser that raises UsageError."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the whole usage."""
        raise UsageError(
            f"{message[0].upper()}{message[1:]}.",
            remedy=f"minivess help {self.prog.split()[1]}" if " " in self.prog else "minivess help",
        )


def overview() -> argparse.ArgumentParser:
    """The parser whose help lists all verbs."""
    listing = "\n".join(
        "\n".join([f"\n{title}:", *(f"  {name:<12} {VERBS[name].help}" for name in names)])
        for title, names in GROUPS.items()
    )
    return Parser(
        prog="minivess",
        usage="minivess VERB [FILE.yaml ...] [key=value ...] [options]",
        description=f"Train, judge and serve 3-D biomedical segmentation models.\n{listing}",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def parser(name: str, *, with_settings: bool = False) -> argparse.ArgumentParser:
    """The options of one verb; `with_settings` for its help, which takes a moment."""
    verb = ROWS[name]
    settings = " [FILE.yaml ...] [key=value ...]" if verb.uses else ""
    made = Parser(
        prog=f"minivess {name}",
        usage=f"minivess {name}{f' {verb.bare}' if verb.bare else ''}{settings} [options]",
        description=f"{verb.help[0].upper()}{verb.help[1:]}.",
        epilog="\n".join([*_actions(name), *(_settings(verb) if with_settings else ())]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("words", nargs="*", help=argparse.SUPPRESS)
    for option in verb.accepts():
        made.add_argument(f"--{option}", **OPTIONS[option])
    return made


def _actions(name: str) -> Iterator[str]:
    for action, row in ACTIONS_OF.get(name, {}).items():
        yield f"  {action:<8} {row.bare:<18} {row.help}"


def _settings(verb: Verb) -> Iterator[str]:
    """The settings of a verb for its help, each with its default."""
    from minivess import config

    if verb.uses:
        yield "settings, each with its default:"
    for key in filter(verb.reads, config.leaves()):
        yield from format_setting(key)


def format_setting(key: str) -> tuple[str, str]:
    """The two lines of a setting: its default, its meaning with the values that it takes."""
    from minivess import config

    field = config.field_of(key)
    assert field is not None
    taken = config.taken(field.annotation, field.metadata)
    return f"  {key}={config.example(key)}", f"      {field.description} ({taken})"


# --- reading ------------------------------------------------------------------------------


def read(words: Sequence[str]) -> argparse.Namespace:
    """Parse a command line.

    Returns:
        verb, action (of `review`), files, overrides (key=value), arguments (bare words), options.

    Raises:
        UsageError: it holds something that its verb does not take.
    """
    name, rest = _verb(words)
    row = ROWS[name]
    if {"-h", "--help"} & set(rest):
        _show(parser(name, with_settings=True).format_help())
    _refuse_foreign(name, rest)
    if "--schema" in rest and name != "sql":
        from minivess.cli import schema

        sys.stdout.write(json.dumps(schema.of(name), indent=2) + "\n")
        raise SystemExit(0)
    verb, _, action = name.partition(" ")
    options = argparse.Namespace(verb=verb, action=action, files=[], tiers=[])
    for option, how in OPTIONS.items():
        vars(options).setdefault(how.get("dest", option.replace("-", "_")), how.get("default"))
    options = parser(name).parse_intermixed_args(rest, options)
    options.upstream = [part for text in options.upstream for part in text.split(",") if part]
    kinds: dict[str, list[str]] = {"file": [], "setting": [], "bare": []}
    for word in options.words:
        kinds[kind_of(word, row)].append(word)
    options.files = [*options.files, *kinds["file"]]
    options.overrides = [f"compute.profile={tier}" for tier in options.tiers] + kinds["setting"]
    options.arguments = kinds["bare"]
    _refuse_number(name, options.arguments)
    if options.follow and options.json:
        raise UsageError("--follow never ends, so it has no --json.", remedy="one of the two")
    return options


def _verb(words: Sequence[str]) -> tuple[str, list[str]]:
    """The verb and all other words; prints help and version, and exits then."""
    bare = [word for word in words if not word.startswith("-")]
    if bare[:1] == ["help"]:
        asked = [word for word in words if word not in ("help", "-h", "--help", "--debug")]
        if not asked:
            _show(overview().format_help())
        if asked[1:] and " ".join(asked) not in ROWS:
            raise UsageError(
                f"`minivess help` takes one verb, but got {', '.join(map(repr, asked))}.",
                remedy=f"minivess help {nearest(asked[0], VERBS) or ''}".strip(),
            )
        bare, words = asked, [*asked, "--help"]
    if not bare:
        if "--version" in words:
            from importlib.metadata import version

            _show(f"minivess {version('minivess')}\n")
        overview().parse_args(words)
        raise UsageError("No verb is given.", remedy="minivess help")
    name, rest = bare[0], [*words]
    rest.remove(name)
    if name not in VERBS:
        near = nearest(name, [*VERBS, *PAGES])
        near = f"open {near}" if near in PAGES and near not in VERBS else near
        meant = f"did you mean `minivess {near}`?" if near else "minivess help, which lists them"
        raise UsageError(f"There is no verb {name!r}.", remedy=meant)
    return _action(name, rest) if name in ACTIONS_OF else (name, rest)


def _show(text: str) -> NoReturn:
    sys.stdout.write(spelled(text))
    raise SystemExit(0)


def _action(name: str, rest: list[str]) -> tuple[str, list[str]]:
    """A verb with its action, and all other words; by default `review list`, and `serve` itself."""
    action = next((word for word in rest if word in ACTIONS_OF[name]), None)
    if action is not None:
        rest.remove(action)
        return f"{name} {action}", rest
    if name == "serve":
        return name, rest
    first = next((word for word in rest if not word.startswith("-") and "=" not in word), None)
    if first is not None and rest[0] == first:
        raise UsageError(
            f"`minivess review` has no action {first!r}.",
            remedy=f"minivess help review; there are {', '.join(ACTIONS)}",
        )
    return "review" if "--help" in rest else "review list", rest


def kind_of(word: str, verb: Verb) -> Literal["file", "setting", "bare"]:
    """Whether a word is a YAML file, a setting, or an argument of the verb."""
    if not verb.uses:
        return "bare"
    if word.endswith((".yaml", ".yml")) and "=" not in word:
        return "file"
    if "=" not in word or not verb.bare:
        return "setting" if "=" in word else "bare"
    from minivess import config

    # Queries and paths may hold an equals sign, too.
    setting = config.known(word.partition("=")[0]) and not Path(word).exists()
    return "setting" if setting else "bare"


def _refuse_foreign(name: str, rest: Iterable[str]) -> None:
    """Refuse an option of other verbs, and name those."""
    for word in rest:
        option = word.removeprefix("--").partition("=")[0]
        if word.startswith("--") and option in OPTIONS and option not in ROWS[name].accepts():
            others = [other for other, row in ROWS.items() if option in row.accepts()]
            raise UsageError(
                f"`minivess {name}` does not use --{option}.",
                remedy=f"leave it out; it belongs to {_listed(others)}",
            )


def _refuse_number(name: str, given: Sequence[str]) -> None:
    """Refuse a wrong number of arguments."""
    bare = ROWS[name].bare
    outside, _, inside = bare.rstrip("]").partition("[")
    must, may = (part.replace("...", "").split() for part in (outside, inside))
    fits = len(given) in (len(must), len(must) + len(may))
    if not (fits or ("..." in bare and len(given) > len(must))):
        got = ", ".join(map(repr, given))
        remedy = f"minivess help {name.split()[0]}, which shows its words (settings: key=value)"
        if ROWS[name].reads("data.root") and given and Path(given[-1]).is_dir():
            remedy = f"minivess {name} {shlex.quote(f'data.root={given[-1]}')}"
        raise UsageError(
            f"`minivess {name}` takes {bare or 'no bare words'}, but got {got or 'none'}.",
            remedy=remedy,
        )


def refuse_unused(options: argparse.Namespace, stages: Sequence[str] = ()) -> None:
    """Refuse an override of a setting that this verb does not read.

    Files may hold settings of other verbs: one file serves them all.

    Args:
        stages: the stages that an experiment runs.
    """
    rows = [VERBS[stage] for stage in stages] or [ROWS[f"{options.verb} {options.action}".strip()]]
    for override in options.overrides:
        key = override.partition("=")[0]
        if any(row.reads(key) for row in rows) or (stages and key == "flows"):
            continue
        running = f" with flows=[{','.join(stages)}]" if stages else ""
        readers = [
            other for other, row in VERBS.items() if row.reads(key) and other != options.verb
        ]
        raise UsageError(
            f"`minivess {options.verb}`{running} does not use {key}.",
            remedy=f"leave {override} out; it belongs to {_listed(readers)}",
        )


def refuse_lone(options: argparse.Namespace) -> None:
    """Refuse options that say how a deployed command runs, without --deployed.

    Raises:
        UsageError: naming the option.
    """
    for name in ("pool", "detach") if "deployed" in ROWS[options.verb].options else ():
        if vars(options)[name] and not options.deployed:
            raise UsageError(
                f"--{name} says how a command runs on a work pool.",
                remedy=f"add --deployed, or leave out --{name}",
            )


def _listed(names: Sequence[str]) -> str:
    return f"minivess {some(names, 8)}"
