"""Entry point of a process: print a failure as one paragraph and return an exit code."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable

from minivess import files
from minivess.errors import MinivessError
from minivess.runtime import output, signals

STORIES = tuple(
    f"minivess.{room}"
    for room in ["stages", "production", "reproduction", "grid", "orchestration", "cli", "course"]
)
"""Loggers whose progress is shown without --debug."""


def guarded(work: Callable[[], int], *, debug: bool = False) -> int:
    """Run the work of a process; returns its exit code, also for a failure, which is printed."""
    # A job started with & inherits an ignored SIGINT; a user's `kill -INT` must still count.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with signals.terminable():
            return work()
    except MinivessError as error:
        return fail(str(error), error.exit_code, debug=debug)
    except signals.Terminated as leave:
        code = int(str(leave.code))
        return fail("Terminated. What was finished is kept; the same command resumes.", code)
    except KeyboardInterrupt:
        return fail("Interrupted. What was finished is kept; the same command resumes.", 130)
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
    """Print one paragraph on standard error; returns the exit code."""
    output.print_line(sys.stderr, message)
    if debug:
        import traceback

        traceback.print_exc()
    return code


def is_shown(record: logging.LogRecord, *, debug: bool = False, quiet: bool = False) -> bool:
    """Whether people see a log line: warnings and the progress of stages; all with --debug."""
    ours = "minivess" if debug else STORIES
    return record.levelno >= logging.WARNING or (not quiet and record.name.startswith(ours))


def show_logs(*, debug: bool, quiet: bool = False) -> None:
    """Send log lines to standard error, those that `is_shown` names."""
    handler = logging.StreamHandler(sys.stderr)
    # The handler chooses, not the loggers: runs lower their levels for their own log files.
    handler.addFilter(lambda record: is_shown(record, debug=debug, quiet=quiet))
    handler.setFormatter(output.Lines("  %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.getLogger("minivess").setLevel(logging.INFO)
