"""From files, environment and words to one checked configuration."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minivess.config.experiment import DEMO, ExperimentConfig
from minivess.config.files import find, read_yaml
from minivess.config.settings import dotted, leaves, parse, refuse_unknown, validated
from minivess.config.variables import Environment, environment


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
        merged = merge([find("experiments", DEMO), *files], words, env)
    values = OmegaConf.to_container(merged, resolve=False)
    config: ExperimentConfig = validated(ExperimentConfig, values)
    if isinstance(config.data.root, Path):
        root = ((folder or Path.cwd()) / config.data.root.expanduser()).resolve()
        data = config.data.model_copy(update={"root": root})
        config = config.model_copy(update={"data": data})
    return config


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
    for word in words:
        key, value = parse(word)
        OmegaConf.update(tree, key, value, merge=False, force_add=True)
    return tree
