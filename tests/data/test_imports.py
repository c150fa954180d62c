"""Deciding that nothing changed opens no volume and loads no heavy library."""

from __future__ import annotations

import subprocess
import sys

LOOK = """
import sys
from minivess.data import splits
from minivess.demo import phantom
from minivess.data.pairing import cases
from minivess.data.versions import file_hashes, versioning
heavy = {"numpy", "scipy", "nibabel", "torch", "monai", "dvc", "matplotlib"} & set(sys.modules)
assert not heavy, heavy
"""


def test_the_quick_path_loads_nothing_heavy() -> None:
    subprocess.run([sys.executable, "-c", LOOK], check=True)
