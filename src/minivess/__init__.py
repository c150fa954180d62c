"""Train, judge and serve 3-D biomedical segmentation models.

    import minivess as mv

    data = mv.profile("/data/vessels")
    job = mv.train(data, losses=["dice_ce"], max_epochs=50)
    study = mv.analyse(job)
    model = mv.load("vessels@champion")
    mask = model(array, spacing=(0.5, 0.5, 2.0))

The same stages, keys, runs and errors as the command line; docs/python.md shows them all. Names are
imported when they are first used, so that `import minivess` takes no time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minivess.api import (
        Analysis,
        Dataset,
        Job,
        Model,
        Search,
        Training,
        analyse,
        evaluate,
        load,
        measure,
        plan,
        profile,
        runs,
        search,
        sql,
        start,
        train,
    )

__all__ = [
    "Analysis",
    "Dataset",
    "Job",
    "Model",
    "Search",
    "Training",
    "analyse",
    "evaluate",
    "load",
    "measure",
    "plan",
    "profile",
    "runs",
    "search",
    "sql",
    "start",
    "train",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    if name not in {*__all__, "model", "loss"}:  # these two are refused with a remedy
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    from importlib import import_module

    return getattr(import_module("minivess.api"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
