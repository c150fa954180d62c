"""Entry point of `minivess VERB [FILE.yaml ...] [key=value ...]`.

Nothing heavy is imported here: `--help` and a mistyped verb answer at once.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from minivess.cli import notice
from minivess.cli.grammar import read
from minivess.errors import MinivessError
from minivess.runtime.entry import guarded, show_logs
from minivess.runtime.output import print_line


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; 0 done, 1 expected failure, 2 wrong usage, 130/143 interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words

    def work() -> int:
        options = read(words)
        show_logs(debug=debug, quiet=options.quiet)
        # Networks and losses of one's own lie beside one's configs/; last, so they hide nothing.
        sys.path.extend({os.getcwd()} - set(sys.path))
        from minivess.cli import commands

        try:
            outcome = commands.run(options)
        except MinivessError as error:
            if options.json:
                what = getattr(error, "code", "") or type(error).__name__
                told = {"code": what, "problem": error.problem, "remedy": error.remedy}
                _write({"failure": told})
            raise
        code: int = outcome.pop("exit_code", 0)
        if options.json:
            _write(outcome)
        elif options.quiet:
            for line in _lines(_plain(outcome)):
                print_line(sys.stdout, line)
        return code

    begun = time.monotonic()
    code = guarded(work, debug=debug)
    notice.give(words, code, time.monotonic() - begun)
    return code


def _write(outcome: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(_plain(outcome)) + "\n")


def _plain(outcome: dict[str, Any]) -> Any:
    from minivess.tracking.run.encoding import plain_json

    return plain_json(outcome)


def _lines(outcome: dict[str, Any], within: str = "") -> Iterator[str]:
    """`key: value` for --quiet, `key.part: value` within one; what lies deeper is for --json."""
    for key, value in outcome.items():
        if isinstance(value, dict):
            yield from () if within else _lines(value, f"{key}.")
        elif isinstance(value, list) and value and not isinstance(value[0], dict | list):
            yield f"{within}{key}: {', '.join(map(str, value))}"
        elif value is not None and not isinstance(value, list):
            yield f"{within}{key}: {value}"


if __name__ == "__main__":
    sys.exit(main())
