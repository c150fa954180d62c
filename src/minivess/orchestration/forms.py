"""Parameters of deployed flows: the settings that Prefect's form asks for, typed as they are."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from inspect import Parameter
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args

from pydantic.fields import FieldInfo
from pydantic.json_schema import SkipJsonSchema

from minivess import config
from minivess.verbs import VERBS

ASKED = (
    "data.root", "name", "data.spacing", "training.models", "training.losses", "training.folds",
    "training.max_epochs", "training.device", "compute.profile", "hours", "analysis.metric",
    "analysis.ensembles", "deployment.engine", "deployment.out_of_range",
)  # fmt: skip
"""Settings that have a field of their own; `settings` takes any other as key=value."""


def asks(verb: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a flow a typed parameter for each setting of `ASKED` that its verb reads.

    A field that is filled in is one more word of `settings`; one that is left empty states nothing.
    """
    keys = {key.replace(".", "_"): key for key in ASKED if VERBS[verb].reads(key)}

    def with_form(flow: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(flow)
        def run(settings: tuple[str, ...] = (), **given: Any) -> Any:
            stated = {key: given.pop(name, None) for name, key in keys.items()}
            words = [config.word(key, value) for key, value in stated.items() if value is not None]
            return flow((*settings, *words), **given)

        own = inspect.signature(flow, eval_str=True)
        fields = [
            Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=_type(key))
            for name, key in keys.items()
        ]
        vars(run)["__signature__"] = own.replace(parameters=[*own.parameters.values(), *fields])
        lines = (
            f"    {name}: {key}: {_field(key).description} (default {config.example(key)})"
            for name, key in keys.items()
        )
        run.__doc__ = "\n".join([f"{inspect.getdoc(flow)}\n\nArgs:", *lines])
        return run

    return with_form


def _field(key: str) -> FieldInfo:
    field = config.field_of(key)
    assert field is not None
    return field


def _type(key: str) -> Any:
    kind: Any = _field(key).annotation
    if type(None) in get_args(kind):  # the form shows a text for a path, and nothing for none
        kinds = (one for one in get_args(kind) if one not in (type(None), Path))
        kind = Union[tuple(kinds)]  # noqa: UP007
    if key in config.SHELVES:
        one: Any = Literal[tuple(config.names(config.SHELVES[key]))]
        kind = one if kind is str else tuple[one, ...]
    for limit in _field(key).metadata:
        kind = Annotated[kind, limit]
    return kind | SkipJsonSchema[None]  # type: ignore[misc]
