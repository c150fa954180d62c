"""Dotted keys of settings: parse overrides, look up fields, reject unknown keys."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from minivess.config.base import Auto, Part
from minivess.config.complaints import validated
from minivess.config.experiment import ExperimentConfig
from minivess.config.files import Loader
from minivess.errors import UsageError, nearest


def parse(override: str) -> tuple[str, Any]:
    """Split `key=value`; a text field takes its value verbatim, others are read as YAML."""
    key, equals, text = override.partition("=")
    if not equals:
        raise UsageError(
            f"{override!r} is neither a YAML file nor key=value.",
            remedy="write settings as key=value, for example training.max_epochs=5",
        )
    refuse_unknown(key, f"the word {override!r}")
    if not text.strip():
        raise UsageError(
            f"The word {override!r} gives no value.",
            remedy=f"write one behind the equals sign, or leave {override} out",
        )
    if takes_text(key):
        return key, None if text == "null" else text
    try:
        return key, yaml.load(text, Loader=Loader)
    except yaml.YAMLError as error:
        raise UsageError(
            f"The value of {key}, {text!r}, cannot be read: {error}",
            remedy=f"quote the whole word, for example '{key}={example(key)}'",
        ) from error


def changed(config: ExperimentConfig, values: Mapping[str, Any]) -> ExperimentConfig:
    """Return the settings with other values at some dotted keys; unset fields stay defaults."""
    tree = config.model_dump(mode="json", exclude_unset=True)
    for key, value in values.items():
        set_at(tree, key, value)
    return validated(ExperimentConfig, tree)


def set_at(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set the value at a dotted key; parts that are missing, or no mappings, are made."""
    *parts, leaf = key.split(".")
    for name in parts:
        if not isinstance(tree.get(name), dict):
            tree[name] = {}
        tree = tree[name]
    tree[leaf] = value


def refuse_unknown(key: str, where: str) -> None:
    """Reject a key that nothing reads, naming the nearest known one.

    Raises:
        UsageError: the key is unknown; `where` begins the message.
    """
    if known(key):
        return
    first, _, rest = key.partition(".")
    # Inside a part that exists its own names are meant; else the last name decides.
    names = {full.removeprefix(f"{first}."): full for full in leaves(first) if rest}
    typed = rest if names else key.rpartition(".")[2]
    names = names or {full.rpartition(".")[2]: full for full in leaves()}
    near = nearest(typed, names)
    remedy = f"did you mean {names[near]}?" if near else "minivess help VERB, which lists them"
    raise UsageError(f"{where} sets {key!r}, which is no setting.", remedy=remedy)


def known(key: str) -> bool:
    """Whether a dotted key names a section or a field; keys inside mappings are free."""
    parent = field_of(key.rpartition(".")[0])
    inside_mapping = parent is not None and get_origin(parent.annotation) is dict
    return inside_mapping or field_of(key) is not None


def leaves(part: str = "") -> Iterator[str]:
    """Yield every dotted key that a user may type, or those below a section."""
    yield from (key for key in _below(ExperimentConfig) if not part or key.startswith(f"{part}."))


def _below(kind: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in kind.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Part):
            yield from _below(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def field_of(key: str) -> FieldInfo | None:
    """Return the field behind a dotted key, or None inside a mapping."""
    kind: Any = ExperimentConfig
    for name in key.split("."):
        field: FieldInfo | None = getattr(kind, "model_fields", {}).get(name)
        if field is None:
            return None
        kind = field.annotation
    return field


def takes_text(key: str) -> bool:
    """Whether a field takes text and no list, so that its override is not read as YAML."""
    field = field_of(key)
    kinds = _alternatives(field.annotation) if field is not None else ()
    listed = any(get_origin(kind) is tuple for kind in kinds)
    return not listed and any(
        kind in (str, Path) or (get_origin(kind) is Literal and kind is not Auto) for kind in kinds
    )


def example(key: str) -> str:
    """Format the default of a key as it may be typed."""
    field = field_of(key)
    if field is None:
        return "..."
    value = field.get_default()
    if isinstance(value, tuple):
        return f"[{','.join(map(str, value))}]"
    return (
        "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    )


def dotted(tree: Mapping[Any, Any], prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys that a mapping sets; mapping-valued fields count as one."""
    for name, value in tree.items():
        key = f"{prefix}{name}"
        field = field_of(key)
        inside = field is None or get_origin(field.annotation) is not dict
        if isinstance(value, Mapping) and inside:
            yield from dotted(value, f"{key}.") if value else iter((key,))
        else:
            yield key


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    origin = get_origin(annotation)
    return get_args(annotation) if origin in (Union, types.UnionType) else (annotation,)
