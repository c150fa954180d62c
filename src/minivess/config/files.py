"""Find and read the YAML files of configs/."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from minivess.errors import UsageError, nearest

SHIPPED = ("demo", "dynunet_losses", "lite", "minivess", "search", "smoke")
"""The experiment files of the product; what they say is a default, not the user's word."""
SHELVES = {"training.models": "models", "training.losses": "losses", "compute.profile": "tiers"}
"""Settings whose values are names of files, and the folder of configs/ that holds them."""

NUMBERS = {
    "tag:yaml.org,2002:int": r"^[-+]?(?:0|[1-9][0-9]*)$",
    "tag:yaml.org,2002:float": r"^[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?$"
    r"|^[-+]?[0-9]+[eE][-+]?[0-9]+$"
    r"|^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$",
}


class Loader(yaml.SafeLoader):
    """YAML in which a key stands once and 010 and 1:30 are no other numbers than written.

    Which of two equal keys counts would be a guess; YAML 1.1 reads 8 and 90.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping, each key once."""
        names = [key.value for key, _ in node.value]
        for name in names:
            if names.count(name) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {name!r} stands there twice", node.start_mark
                )
        return super().construct_mapping(node, deep)


Loader.yaml_implicit_resolvers = {
    first: [(tag, rule) for tag, rule in rules if tag not in NUMBERS]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, _rule in NUMBERS.items():
    Loader.add_implicit_resolver(_tag, re.compile(_rule), [*"-+.0123456789"])


def read_yaml(file: Path) -> dict[str, Any]:
    """A YAML file as a mapping."""
    try:
        value = yaml.load(file.read_text(encoding="utf-8"), Loader=Loader)
    except FileNotFoundError:
        raise UsageError(
            f"There is no file {file}.",
            remedy=f"use one of {', '.join(str(p) for p in known_experiments())}",
        ) from None
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        said = error.strerror if isinstance(error, OSError) else error
        fix = "name a YAML file that you may read" if said is not error else "correct the file"
        raise UsageError(f"{file} cannot be read: {said}", remedy=fix) from error
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
    return tuple(place for place in (Path.cwd() / "configs", *_ours()) if place.is_dir())


def _ours() -> tuple[Path, Path]:
    package = Path(__file__).resolve().parents[1]
    return package.parents[1] / "configs", package / "_configs"


def is_shipped(file: Path) -> bool:
    """Whether an experiment file came with the product."""
    folders = [place / "experiments" for place in _ours()]
    return file.stem in SHIPPED and file.resolve().parent in folders


def find(kind: str, name: str) -> Path:
    """The YAML file of a model, loss, tier or experiment.

    Raises:
        UsageError: no such file; the nearest name is given.
    """
    for folder in folders():
        if (folder / kind / f"{name}.yaml").is_file():
            return folder / kind / f"{name}.yaml"
    near = nearest(name, names(kind))
    raise UsageError(
        f"There is no configs/{kind}/{name}.yaml.",
        remedy=f"{f'did you mean {near}? ' if near else ''}Known: {', '.join(names(kind))}",
    )


def names(kind: str) -> list[str]:
    """The models, losses, tiers or experiments that have a YAML file."""
    return sorted({file.stem for folder in folders() for file in (folder / kind).glob("*.yaml")})


def known_experiments() -> list[Path]:
    """The experiment files, as a user may type them from here."""
    here = Path.cwd()
    found = {
        file.name: file.relative_to(here) if file.is_relative_to(here) else file
        for folder in reversed(folders())
        for file in (folder / "experiments").glob("*.yaml")
    }
    return sorted(found.values())
