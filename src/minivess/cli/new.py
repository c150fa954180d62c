"""Templates of one's own model, loss, tier or experiment, which work as they are."""

from __future__ import annotations

import argparse
import keyword
from pathlib import Path
from typing import Any

from minivess import files
from minivess.config import ExperimentConfig
from minivess.errors import UsageError, nearest
from minivess.runtime import output, templates

TEMPLATES = Path(__file__).with_name("templates")
KINDS = {
    "model": ("configs/models/{}.yaml", "{}.py"),
    "loss": ("configs/losses/{}.yaml", "{}.py"),
    "tier": ("configs/tiers/{}.yaml",),
    "experiment": ("configs/experiments/{}.yaml",),
}
"""Kind -> its files below the current folder, where the product looks first."""
TRY = {
    "model": "minivess train training.models={} data.root=/path/to/folder",
    "loss": "minivess train training.losses={} data.root=/path/to/folder",
    "tier": "minivess plan compute.profile={} data.root=/path/to/folder",
    "experiment": "minivess plan configs/experiments/{}.yaml data.root=/path/to/folder",
}


def write(_: ExperimentConfig, options: argparse.Namespace) -> dict[str, Any]:
    """Write the files of a template into the current folder.

    Raises:
        UsageError: a kind that there is not, a name that Python cannot import, or a file is there.
    """
    kind, name = options.arguments
    if kind not in KINDS:
        raise UsageError(
            f"There is no template of a {kind!r}.",
            remedy=f"minivess new {nearest(kind, KINDS) or 'model'} {name}; one of "
            + ", ".join(KINDS),
        )
    if not name.isidentifier() or keyword.iskeyword(name):
        raise UsageError(
            f"{name!r} cannot be a name of files that Python imports.",
            remedy="letters, digits and underscores, a letter first: my_net",
        )
    targets = {Path(place.format(name)): Path(place).suffix for place in KINDS[kind]}
    if there := [path for path in targets if path.exists()]:
        raise UsageError(f"{there[0]} is there already.", remedy="another name, or move it away")
    for path, suffix in targets.items():
        template = TEMPLATES / f"{kind}{suffix}.j2"
        files.write_text(path, templates.render(template, name=name))
        output.print_for(options, f"  {path}")
    output.print_for(options, f"  then: {TRY[kind].format(name)}")
    return {"files": [str(path) for path in targets]}
