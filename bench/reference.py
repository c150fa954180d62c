"""docs/reference.md: every verb with its options, every setting, made from the command line itself.

`just bench reference` prints it; with --write it replaces the page.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from minivess import config
from minivess.verbs import OPTIONS, ROWS

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference.md"
HEAD = """\
# Reference: verbs, options, settings

Made by `just bench reference --write` from the tables of the command line and the settings; a test
compares it. In a terminal: `minivess help VERB`, `minivess settings`, `minivess explain SETTING`.

With `--quiet`, verbs that work for a while print no progress: warnings and errors go to standard
error, and the outcome follows on standard output as lines `key: value`, whose keys are those of
`--json`. Both together print its one object.

For programs: the last line of `minivess VERB ... --json` is one JSON object, whose JSON schema
`minivess VERB --schema` prints. Where a command fails, it is `{"failure": {"code", "problem",
"remedy"}}`; a code is that of a check ([checks.md](checks.md)), of MLflow, or the kind of error.
"""


def page() -> str:
    """The whole page."""
    return "\n".join([HEAD, *_verbs(), "", *_options(), "", *_settings(), ""])


def _verbs() -> Iterator[str]:
    yield "## Verbs\n\n| verb | words | does | options |\n|---|---|---|---|"
    for name, row in ROWS.items():
        options = " ".join(f"`--{option}`" for option in row.accepts() if option != "debug")
        bare = f"`{row.bare}`" if row.bare else ""
        yield f"| `{name}` | {bare} | {row.help} | {options} |"


def _options() -> Iterator[str]:
    yield "## Options\n\nEvery verb takes `--debug` and `--help`.\n\n| option | does |\n|---|---|"
    for name, how in OPTIONS.items():
        value = f" {how['metavar']}" if "metavar" in how else ""
        yield f"| `--{name}{value}` | {how['help']} |"


def _settings() -> Iterator[str]:
    yield "## Settings\n\n`key=value` on the command line, or nested in a YAML file."
    part = None
    for key in config.leaves():
        field = config.field_of(key)
        assert field is not None
        own = key.partition(".")[0] if "." in key else "of the experiment"
        if own != part:
            part = own
            yield f"\n### {part}\n\n| setting | default | meaning | takes |\n|---|---|---|---|"
        default = str(config.example(key)).replace("|", "\\|")
        takes = config.taken(field.annotation, field.metadata)
        yield f"| `{key}` | `{default}` | {field.description} | {takes} |"


def main() -> None:
    """Print the page, or write it."""
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--write", action="store_true", help=f"replace docs/{PAGE.name}")
    if not words.parse_args().write:
        print(page(), end="")
        return
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
