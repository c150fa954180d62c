"""Print the packages of pyproject.toml and of the extras named; pip installs them first."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
extras = project["optional-dependencies"]
needs = [*project["dependencies"], *(need for name in sys.argv[1:] for need in extras[name])]
sys.stdout.write("\n".join(needs) + "\n")
