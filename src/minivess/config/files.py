"""The YAML files: where they lie and how one is read."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import yaml

from minivess.errors import UsageError


def read_yaml(file: Path) -> dict[str, Any]:
    """A YAML file as a mapping."""
    try:
        value = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(
            f"There is no file {file}.",
            remedy=f"use one of {', '.join(str(p) for p in known_experiments())}",
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{file} is not YAML: {error}", remedy="mend the file at the line named above"
        ) from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UsageError(
            f"{file} holds {type(value).__name__}, not settings.",
            remedy="write settings as `training:` with indented `max_epochs: 5` below it",
        )
    return value


def folders() -> tuple[Path, ...]:
    """Where configs/ may lie: here, in the clone, in the installed package."""
    package = Path(__file__).resolve().parents[1]
    places = (Path.cwd() / "configs", package.parents[1] / "configs", package / "_configs")
    return tuple(place for place in places if place.is_dir())


def find(kind: str, name: str) -> Path:
    """The YAML file of a model, loss, tier or experiment.

    Raises:
        UsageError: no such file; the nearest name is given.
    """
    for folder in folders():
        if (folder / kind / f"{name}.yaml").is_file():
            return folder / kind / f"{name}.yaml"
    names = sorted({file.stem for folder in folders() for file in (folder / kind).glob("*.yaml")})
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.0)
    raise UsageError(
        f"There is no configs/{kind}/{name}.yaml.",
        remedy=f"did you mean {near[0] if near else '?'}? Known: {', '.join(names)}",
    )


def known_experiments() -> list[Path]:
    """The experiment files, as a user may type them from here."""
    here = Path.cwd()
    found = {
        file.name: file.relative_to(here) if file.is_relative_to(here) else file
        for folder in reversed(folders())
        for file in (folder / "experiments").glob("*.yaml")
    }
    return sorted(found.values())
