"""`minivess VERB [FILE.yaml ...] [key=value ...]`: words in, exit code out.

Nothing heavy is imported here: `--help` and a mistyped verb answer at once.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence

from flows import output, signals
from flows.grammar import read
from minivess import files
from minivess.errors import MinivessError


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
            from minivess.tracking.values import plain

            sys.stdout.write(json.dumps(plain(outcome)) + "\n")
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
        if expected := files.expected(error):
            return fail(str(expected), 1)
        return fail(
            f"Unexpected {type(error).__name__}: {error}\n"
            "  Try: the same command with --debug shows where; please report it",
            1,
        )


def fail(message: str, code: int, *, debug: bool = False) -> int:
    """One paragraph on standard error, and the exit code."""
    output.tell(sys.stderr, message)
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
    handler.setFormatter(output.Lines("  %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.getLogger("flows").setLevel(logging.INFO)
    logging.getLogger("minivess").setLevel(logging.INFO)


if __name__ == "__main__":
    sys.exit(main())
