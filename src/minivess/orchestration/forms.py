"""Parameters of deployed flows: the settings that Prefect's form asks for, typed as they are."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from inspect import Parameter
from typing import Annotated, Any, Literal

from pydantic.fields import FieldInfo

from minivess import config
from minivess.verbs import VERBS

ASKED = (
    "data.root", "name", "training.models", "training.losses", "training.folds",
    "training.max_epochs", "training.device", "compute.profile", "hours", "analysis.metric",
    "analysis.ensembles", "deployment.engine", "deployment.out_of_range",
)  # fmt: skip
"""Settings that have a field of their own; `settings` takes any other as key=value."""
WORDS = {
    "settings": "any other setting, one key=value an item",
    "files": "experiment files (YAML), as the worker finds them",
    "upstream": "ids of the runs to build on; none: the latest",
}


def asks(verb: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a flow a typed parameter for each setting of `ASKED` that its verb reads.

    What is filled in is one more word of `settings`; a field that is left at its default states
    nothing, so that files and the data decide.
    """
    keys = {key.replace(".", "_"): key for key in ASKED if VERBS[verb].reads(key)}

    def with_form(flow: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(flow)
        def run(*args: Any, **given: Any) -> Any:
            asked = {key: given.pop(name, _default(key)) for name, key in keys.items()}
            stated = {key: value for key, value in asked.items() if value != _default(key)}
            words = [config.word(key, value) for key, value in stated.items()]
            stands = own.bind_partial(*args, **given)
            stands.arguments["settings"] = (*stands.arguments.get("settings", ()), *words)
            return flow(*stands.args, **stands.kwargs)

        own = inspect.signature(flow, eval_str=True)
        fields = [
            Parameter(name, Parameter.KEYWORD_ONLY, default=_default(key), annotation=_type(key))
            for name, key in keys.items()
        ]
        vars(run)["__signature__"] = own.replace(parameters=[*own.parameters.values(), *fields])
        said = {name: text for name, text in WORDS.items() if name in own.parameters}
        said |= {name: f"{key}: {_field(key).description}" for name, key in keys.items()}
        lines = (f"    {name}: {text}" for name, text in said.items())
        run.__doc__ = "\n".join([f"{inspect.getdoc(flow)}\n\nArgs:", *lines])
        return run

    return with_form


def _field(key: str) -> FieldInfo:
    field = config.field_of(key)
    assert field is not None
    return field


def _default(key: str) -> Any:
    """What the form shows at first; a text is empty where nothing is stated."""
    default = _field(key).get_default()
    return "" if default is None and config.takes_text(key) else default


def _type(key: str) -> Any:
    kind: Any = _field(key).annotation
    if _default(key) == "":
        return str
    if key in config.SHELVES:
        names = config.names(config.SHELVES[key])
        many: Any = Literal[tuple(names)]
        kind = Literal[_default(key), *names] if kind is str else tuple[many, ...]
    for limit in _field(key).metadata:
        kind = Annotated[kind, limit]
    return kind
