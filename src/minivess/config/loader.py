"""From files, environment and words to one checked configuration."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minivess.config.complaints import validated
from minivess.config.contradictions import CONTRADICTIONS
from minivess.config.dotted_keys import dotted, leaves, parse, refuse_unknown
from minivess.config.env_variables import Environment, environment
from minivess.config.experiment import DEMO, ExperimentConfig
from minivess.config.files import find, is_shipped, read_yaml
from minivess.errors import UsageError


def load(
    files: Sequence[Path] = (),
    words: Sequence[str] = (),
    env: Environment | None = None,
    folder: Path | None = None,
) -> ExperimentConfig:
    """Merge YAML files, standard variables and `key=value` words, then validate.

    Without a `data.root`, configs/experiments/demo.yaml lies under everything.
    Relative `data.root` words are resolved against `folder` (default: where the user stands).

    Raises:
        UsageError: unknown key (the nearest one is named), refused value or contradiction.
    """
    from omegaconf import OmegaConf

    env = env or environment()
    merged = merge(files, words, env)
    if OmegaConf.select(merged, "data.root") is None:
        files = [find("experiments", DEMO), *files]
        merged = merge(files, words, env)
    origins: dict[str, Path | None] = {
        key: file for file in files for key in dotted(read_yaml(file))
    }
    origins |= {word.partition("=")[0]: None for word in words}

    def where(key: str) -> str:
        places = [origins[set_] for set_ in origins if f"{key}.".startswith(f"{set_}.")]
        return f"{places[-1]}: " if places and places[-1] else ""

    values = OmegaConf.to_container(merged, resolve=False)
    stated = [key for key, file in origins.items() if file is None or not is_shipped(file)]
    _give_way(values, stated, validated(ExperimentConfig, values, where, loose=True))
    config: ExperimentConfig = validated(ExperimentConfig, values, where)
    if isinstance(config.data.root, Path):
        root = ((folder or Path.cwd()) / config.data.root.expanduser()).resolve()
        data = config.data.model_copy(update={"root": root})
        config = config.model_copy(update={"data": data})
    return config


def _give_way(values: Any, stated: Sequence[str], loose: ExperimentConfig) -> None:
    """Take out what only a shipped file sets where it contradicts what the user stated."""
    for clash in CONTRADICTIONS:
        mine = {key for key in clash.keys if any(f"{s}.".startswith(f"{key}.") for s in stated)}
        for key in set(clash.keys) - mine if mine and clash.holds(loose) else ():
            *parts, leaf = key.split(".")
            part = values
            for name in parts:
                part = part.get(name, {})
            part.pop(leaf, None)


def words(config: ExperimentConfig) -> list[str]:
    """The `key=value` words that `load` makes this configuration of, `tracking` left out.

    Where runs are kept is the reader's affair, and an address may hold a password.
    """
    plain = load(env=Environment()) if config.data.root is None else ExperimentConfig()
    mine, theirs = config.model_dump(mode="json"), plain.model_dump(mode="json")
    found = []
    for key in leaves():
        value, other = mine, theirs
        for name in key.split("."):
            value, other = value[name], other[name]
        if value != other and not key.startswith("tracking."):
            text = str(value) if isinstance(value, str) else json.dumps(value)
            found.append(f"{key}={text}")
    return found


def merge(files: Sequence[Path], words: Sequence[str], env: Environment) -> Any:
    """The differences of files, then environment, then words, as one OmegaConf tree."""
    from omegaconf import OmegaConf

    tree: Any = OmegaConf.create({})
    for file in files:
        for key in dotted(read_yaml(file)):
            refuse_unknown(key, f"{file.name}")
        tree = OmegaConf.merge(tree, OmegaConf.create(read_yaml(file)))
    if env.mlflow_tracking_uri:
        OmegaConf.update(tree, "tracking.uri", env.mlflow_tracking_uri)
    given: dict[str, str] = {}
    for word in words:
        key, value = parse(word)
        for earlier, other in given.items():
            if f"{earlier}.".startswith(f"{key}.") and other != word:
                raise UsageError(
                    f"{other} and {word} contradict each other.", remedy="leave out one of the two"
                )
        given[key] = word
        if OmegaConf.select(tree, "data.label_map") == "binary":
            OmegaConf.update(tree, "data.label_map", {"*": 1}, merge=False)
        OmegaConf.update(tree, key, value, merge=False, force_add=True)
    return tree
