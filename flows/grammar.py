"""What each verb takes: bare words, options, and the settings that decide what it does.

Nothing heavy is imported here, so that help and a mistyped verb answer at once.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn

from minivess.errors import UsageError, nearest

TIERS = ("cpu", "gpu_low", "gpu_high", "dgx_spark", "cloud_single", "cloud_multi")
FLAG: dict[str, Any] = {"action": "store_true", "default": False}
PORT: dict[str, Any] = {"type": int, "metavar": "PORT"}
OPTIONS: dict[str, dict[str, Any]] = {
    "config": {"action": "append", "dest": "files", "metavar": "FILE",
               "help": "a YAML file of settings; bare file names do the same"},
    "upstream": {"action": "append", "default": [], "metavar": "ID[,ID]",
                 "help": "run ids to build on, instead of the latest"},
    **{tier.replace("_", "-"): {"action": "append_const", "dest": "tiers", "const": tier,
                                "help": f"compute.profile={tier}"} for tier in TIERS},
    "yes": {**FLAG, "help": "start even if the forecast is long"},
    "apply": {**FLAG, "help": "do what is only shown without it"},
    "force": {**FLAG, "help": "also what is still needed"},
    "follow": {**FLAG, "help": "again and again, until Ctrl-C"},
    "export": {"nargs": "?", "const": "", "metavar": "FILE.zip",
               "help": "make a portable bundle (a folder without .zip) instead"},
    "trust": {**FLAG, "help": "run the code that a bundle brings, with your rights"},
    "why": {"help": "the reason of the decision"},
    "who": {"help": "who decides, instead of the name of this account"},
    "label": {"metavar": "FILE", "help": "the label file to use"},
    "image": {"metavar": "FILE", "help": "the image file to use"},
    "dataset": {"help": "the dataset, where this home has several"},
    "as": {"dest": "tool", "choices": ("slicer", "label-studio"), "default": "slicer",
           "help": "the tool that the folder is for"},
    "all": {**FLAG, "help": "decided volumes as well"},
    "prefect-port": {**PORT, "default": 4200, "help": "of Prefect's page, 4200 by default"},
    "mlflow-port": {**PORT, "default": 5000, "help": "of MLflow's page, 5000 by default"},
    "json": {**FLAG, "help": "print one JSON object as the last line"},
    "debug": {**FLAG, "help": "show tracebacks and all log lines"},
}  # fmt: skip


class Verb(NamedTuple):
    """One row of the grammar."""

    help: str
    bare: str = ""
    """Words that are no settings: `IN OUT`, `[ID ...]`."""
    options: tuple[str, ...] = ("json",)
    uses: tuple[str, ...] = ()
    """Parts and settings that decide what it does; `-key` takes one out again."""
    opens: Literal["nothing", "home", "lock", "lock to apply"] = "home"

    def reads(self, key: str) -> bool:
        """Whether a setting decides anything here."""
        named = {part.removeprefix("-"): not part.startswith("-") for part in self.uses}
        held = [kept for part, kept in named.items() if f"{key}.".startswith(f"{part}.")]
        return bool(held) and all(held)

    def accepts(self) -> tuple[str, ...]:
        """Its options, with those of every verb."""
        return (*(("config",) if self.uses else ()), *self.options, "debug")


TIER = tuple(tier.replace("_", "-") for tier in TIERS)
STORE = ("tracking.uri",)
DATASET = ("data.root", "data.name")
NAMED = ("name", *DATASET, *STORE)
DATA = ("name", "data", "-data.watch_interval_s", "tracking")
GRID = (*DATA, "compute", "model", "training", "evaluation")
JUDGED = (*NAMED, "tracking", "training.device", "evaluation", "analysis")
SERVED = (*NAMED, "tracking", "deployment")
# A trial is one family, whose cells train one after the other in this process.
TRIED = (*GRID, "search", "-training.refit", "-training.deployment", "-training.parallel_cells",
         "-training.processes_per_cell")  # fmt: skip
# An event hands on what it does not use itself; where runs are kept is the reader's affair.
HANDED_ON = (*(part for part in GRID if part not in ("tracking", "-data.watch_interval_s")), *STORE)
DECIDES = ("why", "who", "dataset", "json")

VERBS = {
    "experiment": Verb("the four flows in order; without arguments on demo data", "",
                       (*TIER, "yes", "json"), ("flows", *GRID, *JUDGED, *SERVED), "lock"),
    "profile": Verb("flow 1: pair, check, measure and version a dataset", "",
                    ("json",), DATA, "lock"),
    "review": Verb("list, accept, reject, fix, export, import: decide about flagged volumes",
                   "[ACTION ...]", ("all", "dataset", "json"), DATASET),
    "watch": Verb("look at the data every hour and announce what is new (data.watch_interval_s)",
                  "", (), HANDED_ON),
    "data-changed": Verb("announce new data once: for a Git hook, a CI step, a webhook",
                         "", ("json",), (*HANDED_ON, "-data.watch_interval_s")),
    "notify": Verb("let Prefect's server call this address when a deployed flow fails", "URL"),
    "train": Verb("flow 2: train every cell of the grid that is not trained yet", "",
                  ("upstream", *TIER, "yes", "json"), GRID, "lock"),
    "search": Verb("try the settings of the part `search:`, write the best as an experiment file",
                   "", ("upstream", *TIER, "json"), TRIED, "lock"),
    "analyse": Verb("flow 3: judge out of fold, choose the champion, write the report", "",
                    ("upstream", "json"), JUDGED, "lock"),
    "deploy": Verb("flow 4: export, prove and serve the champion", "",
                   ("upstream", "json"), SERVED, "lock"),
    "plan": Verb("check the data, show every automatic choice and what the grid will cost", "",
                 ("upstream", *TIER, "json"), (*HANDED_ON, "-data.watch_interval_s")),
    "predict": Verb("segment files or folders with the model in production", "IN OUT",
                    ("upstream", "json"), (*NAMED, "data.spacing", "data.unit")),
    "lineage": Verb("from a run id or model name back to the data hash", "REF", uses=STORE),
    "sql": Verb("ask DuckDB over all runs: one SELECT", "QUERY", uses=STORE),
    "status": Verb("what runs, until when, what is unfinished or out of date", "",
                   ("follow", "json"), STORE),
    "summary": Verb("mean, deviation and rank of each family, from plain files alone", "",
                    ("json",), ("name", *DATASET), "nothing"),
    "settle": Verb("replay journals, mark dead runs as KILLED, write all pointers anew",
                   "[ID ...]", ("json",), NAMED, "lock"),
    "audit": Verb("runs that lack what others rely on; exit code 1 if any does", "[ID ...]",
                  uses=STORE),
    "backfill": Verb("params that older runs prove themselves", "[ID ...]",
                     ("apply", "json"), STORE, "lock to apply"),
    "purge": Verb("remove deleted runs for good", "[ID ...]",
                  ("apply", "force", "json"), STORE, "lock to apply"),
    "rebase": Verb("artifact addresses after a move", "[OLD NEW]",
                   ("apply", "json"), STORE, "nothing"),
    "reproduce": Verb("do a training again and compare, or make a bundle", "RUN_ID_OR_BUNDLE",
                      ("export", "trust", "json"), STORE, "lock"),
    "demo-data": Verb("write the demo volumes into a folder", "DIR",
                      ("json",), ("data.demo_volumes", "data.demo_seed"), "nothing"),
    "ui": Verb("Prefect's page at :4200 and MLflow's at :5000, until Ctrl-C", "",
               ("prefect-port", "mlflow-port"), STORE, "nothing"),
    "help": Verb("what a verb does, its options and its settings", "[VERB]", ()),
}  # fmt: skip
ACTIONS = {
    "list": VERBS["review"]._replace(help="what waits for a decision", bare=""),
    "accept": Verb("goes in despite its finding", "CASE ...", DECIDES, DATASET),
    "reject": Verb("is left out", "CASE ...", DECIDES, DATASET),
    "fix": Verb("goes in with other files in place of its own", "CASE",
                ("label", "image", *DECIDES), DATASET),
    "reopen": Verb("what was decided counts no more", "CASE ...", DECIDES, DATASET),
    "export": Verb("what waits, or the volumes named, for an annotation tool", "DIR [CASE ...]",
                   ("as", "all", "dataset", "json"), DATASET),
    "import": Verb("what was changed or judged there, as decisions", "DIR_OR_FILE.json",
                   ("why", "who", "json")),
}  # fmt: skip
ROWS = VERBS | {f"review {action}": row for action, row in ACTIONS.items()}
EPILOG = """\
examples:
  minivess experiment                                   demo data, a few minutes
  minivess experiment data.root=/data/vessels           own data, defaults for real work
  minivess plan data.root=/data/vessels                 check and forecast, train nothing
  minivess train training.max_epochs=5 training.losses=dice_ce,cbdice
  minivess experiment configs/experiments/lite.yaml data.root=/data/vessels
  minivess help train                                   its options and settings
"""


COMMAND = re.compile(rf"(?<![\w./-])minivess (?=(?:VERB|{'|'.join(VERBS)})\b)")


def spelled(text: str) -> str:
    """Commands as they can be typed here: `just train` where `just` called."""
    from minivess.config import caller

    return COMMAND.sub(f"{caller()} ", text)


class Parser(argparse.ArgumentParser):
    """Argparse whose errors are ours."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the whole usage."""
        raise UsageError(
            f"{message[0].upper()}{message[1:]}.",
            remedy=f"minivess help {self.prog.split()[1]}" if " " in self.prog else "minivess help",
        )


def overview() -> argparse.ArgumentParser:
    """The help of the whole."""
    listing = "\n".join(f"  {name:<12} {verb.help}" for name, verb in VERBS.items())
    return Parser(
        prog="minivess",
        usage="minivess VERB [FILE.yaml ...] [key=value ...] [options]",
        description="Train, judge and serve 3-D biomedical segmentation models."
        f"\n\nverbs:\n{listing}",
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
    for action, row in ACTIONS.items() if name == "review" else ():
        yield f"  {action:<8} {row.bare:<18} {row.help}"


def _settings(verb: Verb) -> Iterator[str]:
    """The settings of a verb for its help, each with its default."""
    from minivess import config

    if verb.uses:
        yield "settings, each with its default:"
    for key in filter(verb.reads, config.leaves()):
        field = config.field_of(key)
        assert field is not None
        yield f"  {key}={config.example(key)}"
        yield f"      {field.description} ({config.taken(field.annotation, field.metadata)})"


# --- reading ------------------------------------------------------------------------------


def read(words: Sequence[str]) -> argparse.Namespace:
    """Parse the words; what its verb does not take is refused."""
    name, rest = _verb(words)
    row = ROWS[name]
    if {"-h", "--help"} & set(rest):
        _show(parser(name, with_settings=True).format_help())
    _refuse_foreign(name, rest)
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
    options.words = [f"compute.profile={tier}" for tier in options.tiers] + kinds["setting"]
    options.arguments = kinds["bare"]
    _refuse_number(name, options.arguments)
    if options.follow and options.json:
        raise UsageError("--follow never ends, so it has no --json.", remedy="one of the two")
    return options


def _verb(words: Sequence[str]) -> tuple[str, list[str]]:
    """The verb, and all the other words; help and version are given here."""
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
        near = nearest(name, VERBS)
        meant = f"did you mean `minivess {near}`?" if near else "minivess help, which lists them"
        raise UsageError(f"There is no verb {name!r}.", remedy=meant)
    return _action(rest) if name == "review" else (name, rest)


def _show(text: str) -> NoReturn:
    sys.stdout.write(spelled(text))
    raise SystemExit(0)


def _action(rest: list[str]) -> tuple[str, list[str]]:
    """The action of a review; alone it is `list`."""
    action = next((word for word in rest if word in ACTIONS), None)
    if action is not None:
        rest.remove(action)
        return f"review {action}", rest
    first = next((word for word in rest if not word.startswith("-") and "=" not in word), None)
    if first is not None and rest[0] == first:
        raise UsageError(
            f"`minivess review` has no action {first!r}.",
            remedy=f"minivess help review; there are {', '.join(ACTIONS)}",
        )
    return "review" if "--help" in rest else "review list", rest


def kind_of(word: str, verb: Verb) -> Literal["file", "setting", "bare"]:
    """What a word is: a YAML file, a setting, or a bare word of the verb's own."""
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
    """Refuse an option of other verbs, naming those."""
    for word in rest:
        option = word.removeprefix("--").partition("=")[0]
        if word.startswith("--") and option in OPTIONS and option not in ROWS[name].accepts():
            others = [other for other, row in ROWS.items() if option in row.accepts()]
            raise UsageError(
                f"`minivess {name}` does not use --{option}.",
                remedy=f"leave it out; it belongs to {_listed(others)}",
            )


def _refuse_number(name: str, given: Sequence[str]) -> None:
    """Refuse bare words in another number than the verb takes."""
    bare = ROWS[name].bare
    outside, _, inside = bare.rstrip("]").partition("[")
    must, may = (part.replace("...", "").split() for part in (outside, inside))
    fits = len(given) in (len(must), len(must) + len(may))
    if not (fits or ("..." in bare and len(given) > len(must))):
        got = ", ".join(map(repr, given))
        raise UsageError(
            f"`minivess {name}` takes {bare or 'no bare words'}, but got {got or 'none'}.",
            remedy=f"minivess help {name.split()[0]}, which shows its words (settings: key=value)",
        )


def refuse_unused(options: argparse.Namespace, stages: Sequence[str] = ()) -> None:
    """Refuse a setting that was typed for a verb that does not look at it.

    Files may hold what other verbs use: one file serves them all. `stages` are those that an
    experiment runs.
    """
    rows = [VERBS[stage] for stage in stages] or [ROWS[f"{options.verb} {options.action}".strip()]]
    for word in options.words:
        key = word.partition("=")[0]
        if any(row.reads(key) for row in rows) or (stages and key == "flows"):
            continue
        running = f" with flows=[{','.join(stages)}]" if stages else ""
        readers = [
            other for other, row in VERBS.items() if row.reads(key) and other != options.verb
        ]
        raise UsageError(
            f"`minivess {options.verb}`{running} does not use {key}.",
            remedy=f"leave {word} out; it belongs to {_listed(readers)}",
        )


def _listed(names: Sequence[str]) -> str:
    return f"minivess {', '.join(names)}"
