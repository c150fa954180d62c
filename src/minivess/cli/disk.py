"""What takes how much space in the output folder."""

from __future__ import annotations

import argparse
import shutil
from typing import Any

from minivess import config as configs
from minivess import files
from minivess.config import ExperimentConfig
from minivess.home import Home, open_home
from minivess.runtime.output import print_for
from minivess.text import format_size, table

Outcome = dict[str, Any]


def show(_: ExperimentConfig, options: argparse.Namespace) -> Outcome:
    """Print the size of each part of the output folder, the largest first."""
    home = open_home(configs.environment().home, reading=True)
    places = Home.places()
    sizes = {path.name: files.size(path) for path in home.root.iterdir()}
    largest = sorted(sizes, key=lambda name: -sizes[name])
    rows = [
        (format_size(sizes[name]), name, places[name].holds if name in places else "")
        for name in largest
    ]
    free = shutil.disk_usage(home.root).free
    for line in table([*rows, (format_size(files.size(home.root)), "in all", str(home.root))]):
        print_for(options, f"  {line}")
    print_for(options, f"  {format_size(free)} free on its disk")
    return {"home": str(home.root), "bytes": sizes, "free_bytes": free}
