"""Encode values for MLflow: text of params, finite metrics, plain JSON."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from enum import Enum
from pathlib import PurePath
from typing import Any

from pydantic import BaseModel

from minivess import keys

# MLflow silently cuts at 6,000 characters; 500 keep its page readable.
TEXT_LIMIT = 500
log = logging.getLogger(__name__)


def param_text(value: Any) -> str:
    """Return a param's text: strings as they are, numbers and None as in Python, lists as JSON."""
    value = plain_json(value, undefined="nan")
    return json.dumps(value) if isinstance(value, list | dict) else str(value)


def short_param(name: str, value: Any) -> str:
    """Return a param's text; above 500 characters length and hash (the value is an artifact)."""
    written = param_text(value)
    if len(written) <= TEXT_LIMIT:
        return written
    counted = value if isinstance(value, list | tuple | dict | set | frozenset) else written
    what = "values" if counted is value else "characters"
    return f"{len(counted)} {what}, hash {keys.digest(written)}, in params/{name}.json"


def encode_metric(name: str, value: Any) -> float | None:
    """Return a metric as float; infinity becomes NaN: MLflow would store the largest float."""
    if value is None:
        return None
    number = float(value)
    if math.isinf(number):
        log.warning("%s is infinite; NaN is stored.", name, extra={"category": "numerical"})
        return math.nan
    return number


def plain_json(value: Any, undefined: Any = None) -> Any:
    """Convert a value to JSON's types; numbers that are not finite become `undefined`."""
    if isinstance(value, BaseModel):
        return plain_json(value.model_dump(mode="json"), undefined)
    if isinstance(value, Mapping):
        return {str(name): plain_json(part, undefined) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(part, undefined) for part in value]
    if isinstance(value, set | frozenset):
        return sorted(plain_json(part, undefined) for part in value)
    if isinstance(value, Enum):
        return plain_json(value.value, undefined)
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else undefined
    if isinstance(value, PurePath):
        return value.as_posix()
    # Numbers and arrays of numpy and torch, without importing either here.
    if hasattr(value, "tolist"):
        return plain_json(value.tolist(), undefined)
    return str(value)
