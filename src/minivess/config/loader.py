"""Load one validated configuration from YAML files, environment variables and overrides."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from minivess.config.complaints import validated
from minivess.config.contradictions import CONTRADICTIONS
from minivess.config.dotted_keys import dotted, leaves, parse, refuse_unknown, set_at
from minivess.config.env_variables import Environment, environment
from minivess.config.experiment import DEMO, ExperimentConfig
from minivess.config.files import find, is_shipped, read_yaml
from minivess.errors import UsageError

Tree = dict[str, Any]


def load(
    files: Sequence[Path] = (),
    overrides: Sequence[str] = (),
    env: Environment | None = None,
    folder: Path | None = None,
) -> ExperimentConfig:
    """Merge YAML files, standard variables and overrides, then validate.

    Without a `data.root`, configs/experiments/demo.yaml lies under everything.

    Args:
        files: Differences from the defaults; a later file wins over an earlier one.
        overrides: `key=value` each, above files and environment.
        env: The environment variables; None reads those of this process.
        folder: Relative values of `data.root` are resolved against it; None is the current folder.

    Raises:
        UsageError: unknown key (the nearest one is named), refused value or contradiction.
    """
    env = env or environment()
    merged = _merge(files, overrides, env)
    data = merged.get("data")
    if not isinstance(data, Mapping) or data.get("root") is None:
        files = [find("experiments", DEMO), *files]
        merged = _merge(files, overrides, env)
    origins: dict[str, Path | None] = {
        key: file for file in files for key in dotted(read_yaml(file))
    }
    origins |= {override.partition("=")[0]: None for override in overrides}

    def where(key: str) -> str:
        places = [origins[set_] for set_ in origins if f"{key}.".startswith(f"{set_}.")]
        return f"{places[-1]}: " if places and places[-1] else ""

    stated = [key for key, file in origins.items() if file is None or not is_shipped(file)]
    _give_way(merged, stated, validated(ExperimentConfig, merged, where, loose=True))
    config = validated(ExperimentConfig, merged, where)
    _refuse_space(config, where)
    if isinstance(config.data.root, Path):
        root = ((folder or Path.cwd()) / config.data.root.expanduser()).resolve()
        placed = config.data.model_copy(update={"root": root})
        config = config.model_copy(update={"data": placed})
    return config


def require_files(config: ExperimentConfig) -> None:
    """Check that models and losses have files, before anything that takes long.

    Raises:
        UsageError: one has none; the nearest name is given.
    """
    for kind in ("models", "losses"):
        for name in getattr(config.training, kind):
            find(kind, name)


def _refuse_space(config: ExperimentConfig, where: Callable[[str], str]) -> None:
    """Refuse a search over what is no setting, and values that a setting does not take."""
    place = f"{where('search.space')}search.space."
    for key, dimension in config.search.space.items():
        refuse_unknown(key, "search.space")
        for value in dimension.ends:
            tried: Tree = {}
            set_at(tried, key, value)
            validated(ExperimentConfig, tried, lambda _: place, loose=True)


def _give_way(values: Tree, stated: Sequence[str], loose: ExperimentConfig) -> None:
    """Remove what only a shipped file sets where it contradicts what the user stated."""
    for clash in CONTRADICTIONS:
        mine = {key for key in clash.keys if any(f"{s}.".startswith(f"{key}.") for s in stated)}
        if not mine or not clash.holds(loose):
            continue
        for key in set(clash.keys) - mine:
            part, leaf = _place_of(values, key)
            part.pop(leaf, None)
        held = ((key, _place_of(values, key)) for key in mine)
        tables = {k: part[leaf] for k, (part, leaf) in held if isinstance(part.get(leaf), dict)}
        # Both hold words of the user: of what both name, the shipped one gives way.
        for name in set.intersection(*map(set, tables.values())) if len(tables) > 1 else ():
            for key, table in tables.items():
                if not {key, f"{key}.{name}"} & set(stated):
                    table.pop(name)


def _place_of(values: Tree, key: str) -> tuple[Tree, str]:
    """The mapping that holds a dotted key, and the last part of the key."""
    *parts, leaf = key.split(".")
    for name in parts:
        values = values.get(name, {})
    return values, leaf


def overrides(config: ExperimentConfig) -> list[str]:
    """List the overrides of which `load` makes this configuration, those of `tracking` left out.

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
            found.append(word(key, value))
    return found


def word(key: str, value: Any) -> str:
    """Write a setting as it is typed."""
    return f"{key}={value if isinstance(value, str) else json.dumps(value)}"


def _merge(files: Sequence[Path], overrides: Sequence[str], env: Environment) -> Tree:
    """Merge files, then environment, then overrides into one nested mapping."""
    tree: Tree = {}
    for file in files:
        values = read_yaml(file)
        for key in dotted(values):
            refuse_unknown(key, f"{file.name}")
        tree = _deep_merge(tree, values)
    if env.mlflow_tracking_uri:
        set_at(tree, "tracking.uri", env.mlflow_tracking_uri)
    given: dict[str, str] = {}
    for override in overrides:
        key, value = parse(override)
        for earlier, other in given.items():
            if f"{earlier}.".startswith(f"{key}.") and other != override:
                raise UsageError(
                    f"{other} and {override} contradict each other.",
                    remedy="leave out one of the two",
                )
        given[key] = override
        if key.startswith("data.label_map.") and tree.get("data", {}).get("label_map") == "binary":
            set_at(tree, "data.label_map", {"*": 1})
        set_at(tree, key, value)
    return tree


def _deep_merge(below: Tree, above: Mapping[str, Any]) -> Tree:
    """Merge mappings key by key; any other value of `above` replaces the one of `below`."""
    merged = dict(below)
    for name, value in above.items():
        known = merged.get(name)
        if isinstance(known, dict) and isinstance(value, dict):
            merged[name] = _deep_merge(known, value)
        else:
            merged[name] = deepcopy(value)
    return merged
