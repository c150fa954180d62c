"""Turn pydantic's validation errors into one paragraph: file, key, value, accepted values."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from minivess.errors import UsageError, nearest

KINDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    Any: "anything",
    str: "text",
    Path: "a path",
    types.NoneType: "null",
}
Kind = TypeVar("Kind", bound=BaseModel)
LIMITS = {
    "ge": "of at least",
    "gt": "above",
    "le": "of at most",
    "lt": "below",
    "min_length": "with at least",
}


def nowhere(key: str) -> str:
    """The file of a key that no file holds."""
    return ""


def validated(
    kind: type[Kind], values: Any, where: Callable[[str], str] = nowhere, **context: Any
) -> Kind:
    """Build a section; a validation error becomes one paragraph, which `where` begins.

    Raises:
        UsageError: naming the file, the key, its value and what the key takes.
    """
    try:
        return kind.model_validate(values, context={"where": where, **context})
    except ValidationError as error:
        raise _refusal(kind, values, error.errors()[0], where) from None


def _refusal(kind: type[Any], values: Any, first: Any, where: Callable[[str], str]) -> UsageError:
    steps = first["loc"]
    key, annotation, limits = _place(kind, steps)
    said = first["msg"].removeprefix("Value error, ")
    if not key:
        return UsageError(said, remedy="change one of the two settings named")
    full = f"{where(key)}{key}"
    word = full.rpartition(": ")[2]
    if first["type"] == "extra_forbidden":
        near = nearest(steps[-1], annotation.model_fields)
        meant = (
            f"did you mean {word.removesuffix(steps[-1])}{near}?"
            if near
            else f"one of {', '.join(annotation.model_fields)}"
        )
        return UsageError(f"{full.removesuffix(word)}{word!r} is no setting.", remedy=meant)
    if first["type"] == "missing" and len(steps) == 1:
        return UsageError(f"{where(key)}{key} is missing.", remedy=f"add the line `{key}: ...`")
    value = values
    for name in key.split("."):
        value = value.get(name, first["input"]) if isinstance(value, dict) else first["input"]
    if first["type"] != "value_error":
        subject = "its name" if "[key]" in steps else "it"
        said = f"{subject} must be {taken(annotation, limits)}"
    listed = get_origin(annotation) is tuple and not isinstance(value, list | str)
    only = f"[[{value}]]" if word.startswith("training.axes.") else f"[{value}]"
    return UsageError(
        f"{full}={value!r} is refused: {said}.",
        remedy=f"'{word}={only}'" if listed else f"another value for {word}, or leave it out",
    )


def _place(kind: type[Any], steps: Sequence[Any]) -> tuple[str, Any, Sequence[Any]]:
    """The dotted key that pydantic complains about, what it takes and within which limits.

    Where a part has no field of that name, the part itself.
    """
    names: list[str] = []
    annotation: Any = kind
    limits: Sequence[Any] = ()
    for step in steps:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            names.append(str(step))
            if step not in annotation.model_fields:
                break
            field = annotation.model_fields[step]
            annotation, limits = field.annotation, field.metadata
        elif get_origin(annotation) is dict:
            as_key = "[key]" in steps
            names.append(str(step))
            annotation, limits = get_args(annotation)[0 if as_key else 1], ()
        else:
            break
    return ".".join(names), annotation, limits


def taken(annotation: Any, limits: Iterable[Any] = ()) -> str:
    """Describe the values of a type: `a whole number above 0, or auto`."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return taken(args[0], args[1:])
    if origin in (Union, types.UnionType):
        return ", or ".join(dict.fromkeys(taken(one, limits) for one in args))
    if origin is Literal:
        return f"{'one of ' if len(args) > 1 else ''}{', '.join(map(str, args))}"
    if origin is tuple and args[-1] is Ellipsis:
        return f"a list{_within(limits)}, each of it {taken(args[0])}"
    if origin is tuple:
        return f"[{','.join('xyz'[: len(args)])}], each of it {taken(args[0])}"
    within = "" if annotation in (str, bool, types.NoneType) else _within(limits)
    return KINDS.get(annotation, "names and their values") + within


def _within(limits: Iterable[Any]) -> str:
    found = [
        f" {text} {getattr(limit, name)}"
        for given in limits
        for limit in getattr(given, "metadata", [given])
        for name, text in LIMITS.items()
        if hasattr(limit, name)
    ]
    return " and".join(found)
