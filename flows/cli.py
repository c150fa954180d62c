"""`minivess VERB [FILE.yaml ...] [key=value ...]`: words in, exit code out.

Nothing heavy is imported here: `--help` and a mistyped verb answer at once.
"""

from __future__ import annotations

import argparse
import difflib
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from flows import signals
from minivess import files
from minivess.errors import MinivessError, UsageError

VERBS = {
    "experiment": "the four flows in order; without arguments on demo data",
    "profile": "flow 1: pair, check, measure and version a dataset",
    "review": "list, accept, reject, fix, export, import: decide about flagged volumes",
    "watch": "look at the data every hour and announce what is new (data.watch_interval_s)",
    "data-changed": "announce new data once: for a Git hook, a CI step, a webhook",
    "notify": "URL: let Prefect's server call this address when a deployed flow fails",
    "train": "flow 2: train every cell of the grid that is not trained yet",
    "search": "try the settings of the part `search:`, write the best as an experiment file",
    "analyse": "flow 3: judge out of fold, choose the champion, write the report",
    "deploy": "flow 4: export, prove and serve the champion",
    "plan": "check the data, show every automatic choice and what the grid will cost",
    "predict": "IN OUT: segment files or folders with the model in production",
    "lineage": "REF: from a run id or model name back to the data hash",
    "sql": "QUERY: ask DuckDB over all runs",
    "status": "what runs, until when, what is unfinished or out of date; --follow",
    "summary": "mean, deviation and rank of each family, from plain files alone",
    "settle": "replay journals, mark dead runs as KILLED, write all pointers anew",
    "audit": "[ID ...]: runs that lack what others rely on; exit code 1 if any does",
    "backfill": "[ID ...]: params that older runs prove themselves; --apply",
    "purge": "[ID ...]: remove deleted runs for good; --apply, --force",
    "rebase": "[OLD NEW]: artifact addresses after a move; --apply",
    "reproduce": "RUN_ID or BUNDLE: do a training again and compare; --export makes a bundle",
    "demo-data": "DIR: write the demo volumes into a folder",
    "ui": "Prefect's page at :4200 and MLflow's at :5000, until Ctrl-C",
}
TIERS = ("cpu", "gpu_low", "gpu_high", "dgx_spark", "cloud_single", "cloud_multi")
REVIEW = {
    "why": "the reason of a decision",
    "who": "who decides, instead of the name of this account",
    "label": "the label file of a fix",
    "image": "the image file of a fix",
    "dataset": "the dataset, where this home has several",
}
ABOUT = "Train, judge and serve 3-D biomedical segmentation models."
EPILOG = """\
examples:
  minivess experiment                                   demo data, a few minutes
  minivess experiment data.root=/data/vessels           own data, defaults for real work
  minivess plan data.root=/data/vessels                 check and forecast, train nothing
  minivess train training.max_epochs=5 'training.losses=[dice_ce,cbdice]'
  minivess experiment configs/experiments/lite.yaml data.root=/data/vessels
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; 0 done, 1 expected failure, 2 wrong usage, 130/143 interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words

    def work() -> int:
        options = read(words)
        show_logs(debug=debug)
        # Networks and losses of one's own lie beside one's configs/; last, so they hide nothing.
        sys.path.extend({os.getcwd()} - set(sys.path))
        from flows import verbs

        outcome = verbs.run(options)
        code: int = outcome.pop("exit_code", 0)
        if options.json:
            sys.stdout.write(json.dumps(outcome, default=str) + "\n")
        return code

    return guarded(work, debug=debug)


def guarded(work: Callable[[], int], *, debug: bool = False) -> int:
    """Do the work of a process, which gives its exit code; failures become a paragraph and one."""
    # A job started with & inherits an ignored SIGINT; a user's `kill -INT` must still count.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with signals.terminable():
            return work()
    except MinivessError as error:
        return fail(str(error), error.exit_code, debug=debug)
    except signals.Terminated as leave:
        code = int(str(leave.code))
        return fail("Terminated. What was finished is kept; the same command goes on.", code)
    except KeyboardInterrupt:
        return fail("Interrupted. What was finished is kept; the same command goes on.", 130)
    except SystemExit as leave:
        return leave.code if isinstance(leave.code, int) else 1
    except Exception as error:
        if debug:
            raise
        if files.says_full(error):
            return fail(str(files.disk_full("what this command writes")), 1)
        return fail(
            f"Unexpected {type(error).__name__}: {error}\n"
            "  Try: the same command with --debug shows where; please report it",
            1,
        )


def fail(message: str, code: int, *, debug: bool = False) -> int:
    """One paragraph on standard error, and the exit code."""
    sys.stderr.write(f"{message}\n")
    if debug:
        import traceback

        traceback.print_exc()
    return code


def show_logs(*, debug: bool) -> None:
    """Log lines go to standard error: warnings always, our own progress only with --debug."""

    def shown(record: logging.LogRecord) -> bool:
        ours = ("flows", "minivess") if debug else ("flows",)
        return record.levelno >= logging.WARNING or record.name.startswith(ours)

    handler = logging.StreamHandler(sys.stderr)
    # The handler chooses, not the loggers: runs lower their levels for their own log files.
    handler.addFilter(shown)
    logging.basicConfig(handlers=[handler], format="  %(message)s", level=logging.WARNING)
    logging.getLogger("flows").setLevel(logging.INFO)
    logging.getLogger("minivess").setLevel(logging.INFO)


def read(words: Sequence[str]) -> argparse.Namespace:
    """Parse the words; an unknown verb is refused naming the nearest."""
    verb = next((word for word in words if not word.startswith("-")), None)
    if verb is not None and verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, n=1, cutoff=0)[0]
        raise UsageError(f"There is no verb {verb!r}.", remedy=f"did you mean `minivess {near}`?")
    options = parser().parse_intermixed_args(words)
    options.files += [word for word in options.words if is_yaml(word)]
    options.upstream = [part for text in options.upstream for part in text.split(",") if part]
    options.arguments = [w for w in options.words if not is_yaml(w) and "=" not in w]
    options.words = [word for word in options.words if not is_yaml(word) and "=" in word]
    if options.tier:
        options.words.insert(0, f"compute.profile={options.tier}")
    return options


def is_yaml(word: str) -> bool:
    """Whether a bare word names a configuration file."""
    return word.endswith((".yaml", ".yml")) and "=" not in word


def parser() -> argparse.ArgumentParser:
    """The command line."""
    listing = "\n".join(f"  {verb:<12} {does}" for verb, does in VERBS.items())
    made = Parser(
        prog="minivess",
        usage="minivess VERB [FILE.yaml ...] [key=value ...] [options]",
        description=f"{ABOUT}\n\nverbs:\n{listing}",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("verb", choices=list(VERBS), metavar="VERB", help=argparse.SUPPRESS)
    made.add_argument("words", nargs="*", help=argparse.SUPPRESS)
    made.add_argument("--config", action="append", dest="files", default=[], metavar="FILE",
                      help="a YAML file of settings; bare file names do the same")  # fmt: skip
    made.add_argument("--upstream", action="append", default=[], metavar="ID[,ID]",
                      help="run ids to build on, instead of the latest")  # fmt: skip
    for name, meaning in REVIEW.items():
        made.add_argument(f"--{name}", metavar=name.upper(), help=f"`review`: {meaning}")
    made.add_argument("--as", dest="tool", choices=("slicer", "label-studio"), default="slicer",
                      help="`review export`: the tool that the folder is for")  # fmt: skip
    made.add_argument("--all", action="store_true", help="`review list`: decided volumes as well")
    made.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    made.add_argument("--apply", action="store_true", help="do what upkeep verbs only show")
    made.add_argument("--force", action="store_true", help="`purge` also what is still needed")
    made.add_argument(
        "--export",
        nargs="?",
        const="",
        metavar="FILE.zip",
        help="`reproduce`: a portable bundle (a folder without .zip) instead",
    )
    made.add_argument("--follow", action="store_true", help="`status` again and again")
    made.add_argument("--yes", action="store_true", help="start even if the forecast is long")
    made.add_argument("--debug", action="store_true", help="show tracebacks and all log lines")
    made.add_argument("--prefect-port", type=int, default=4200, help="port of `ui`, Prefect's page")
    made.add_argument("--mlflow-port", type=int, default=5000, help="port of `ui`, MLflow's page")
    for tier in TIERS:
        made.add_argument(f"--{tier.replace('_', '-')}", action="store_const", const=tier,
                          dest="tier", help=argparse.SUPPRESS)  # fmt: skip
    return made


class Parser(argparse.ArgumentParser):
    """Argparse whose errors are ours."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the whole usage."""
        raise UsageError(f"{message[0].upper()}{message[1:]}.", remedy="minivess --help")


if __name__ == "__main__":
    sys.exit(main())
