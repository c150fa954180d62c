"""Text made from a Jinja template; `*.html.j2` escapes what it is filled with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2


def render(template: Path, **values: Any) -> str:
    """Fill a template file; a function among `values` is a filter there, too.

    Raises:
        jinja2.UndefinedError: it uses a name that is not among `values`.
    """
    return _environment(template.parent, values).get_template(template.name).render(values)


def fill(text: str, **values: Any) -> str:
    """Fill a template that is no file of its own; nothing is escaped.

    Raises:
        jinja2.UndefinedError: it uses a name that is not among `values`.
    """
    return _environment(Path(), values).from_string(text).render(values)


def _environment(folder: Path, values: Mapping[str, Any]) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=jinja2.select_autoescape(["html.j2"], default_for_string=False),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {name: value for name, value in values.items() if callable(value)}
    return environment


def paragraphs(template: Path, **values: Any) -> list[str]:
    """Fill a template of paragraphs that blank lines separate; lines within one are joined."""
    parts = render(template, **values).split("\n\n")
    return [" ".join(part.split()) for part in parts if part.strip()]
