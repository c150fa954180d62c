"""The JSON schema of what a verb prints with `--json`."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

from minivess.config import read_yaml
from minivess.verbs import ROWS

TYPES = {"text": "string", "number": "number", "whole": "integer", "flag": "boolean"}
NULL = " or null"
OUTCOMES = read_yaml(Path(__file__).with_name("outcomes.yaml"))
Schema = dict[str, Any]


def of(name: str) -> Schema:
    """Return the schema of a verb, or of a verb and its action: `review export`."""
    forms = [name, "failure", *(["sent"] if "deployed" in ROWS[name].options else [])]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"minivess {name} --json, minivess {version('minivess')}",
        "anyOf": [_schema(OUTCOMES[form]) for form in forms],
    }


def _schema(short: Any) -> Schema:
    if isinstance(short, list):
        return {"type": "array", "items": _schema(short[0])}
    if isinstance(short, dict):
        fields = {key: kind for key, kind in short.items() if key != "*"}
        return {
            "type": "object",
            "properties": {key.removeprefix("~"): _schema(kind) for key, kind in fields.items()},
            "required": [key for key in fields if not key.startswith("~")],
            "additionalProperties": _schema(short["*"]) if "*" in short else False,
        }
    if short.endswith(NULL):
        return {"anyOf": [_schema(short.removesuffix(NULL)), {"type": "null"}]}
    if short.startswith("["):
        return _schema([short.strip("[]")])
    return {} if short == "any" else {"type": TYPES[short]}
