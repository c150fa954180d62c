"""Versions of thousands of small files: our index and copies against DVC itself: [--cases 1500].

Each case is an image and a label; `add` and `status` are DVC in a process that has it imported.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from minivess.data.pairing.cases import pair_files
from minivess.data.versions import curated, versioning
from minivess.data.versions.file_hashes import SETTLED_NS
from minivess.home import open_home


def main() -> None:
    """Print seconds for each step, first and with one file changed."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--cases", type=int, default=1500)
    options.add_argument("--kib", type=int, default=20, help="size of each file")
    asked = options.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="versions-"))
    try:
        measure(folder, asked.cases, asked.kib)
    finally:
        shutil.rmtree(folder)


def measure(folder: Path, cases: int, kib: int) -> None:
    """Both ways over one set; the index is asked again once its entries have settled."""
    root, home = folder / "vessels", open_home(folder / "home")
    for index in range(cases):
        for kind in ("images", "labels"):
            path = root / kind / f"v{index:05d}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(os.urandom(kib * 1024))
    time.sleep(SETTLED_NS / 1e9)
    index_of, paths = curated.file_index(home), [*root.rglob("*.gz")]
    timed("pair names", lambda: pair_files(root))
    timed("index, first", lambda: index_of.hashes(paths))
    timed("index, nothing changed", lambda: index_of.hashes(paths))
    found = pair_files(root).cases
    ours = timed("copy to the curated folder", lambda: curated.curate(home, "v", found))
    timed("hash of the folder, first", lambda: curated.folder_hash(ours, index_of))
    timed("hash of the folder, nothing changed", lambda: curated.folder_hash(ours, index_of))
    whole: Callable[[], object] = lambda: versioning.commit(home, "v", found, remote=None)  # noqa: E731
    timed("copy, dvc add and push, first", whole)
    timed("copy, dvc add and push, nothing changed", whole)
    with versioning._repository(home, None) as repo:
        timed("dvc add alone, nothing changed", lambda: repo.add([str(ours)]))
        timed("dvc status", lambda: repo.status())
        timed("dvc data status", lambda: repo.data_status(granular=True))
    paths[0].write_bytes(os.urandom(kib * 1024))
    timed("index, one changed", lambda: index_of.hashes(paths))
    timed("copy, dvc add and push, one changed", whole)


def timed(what: str, work: Callable[[], Any]) -> Any:
    """Print the seconds of one step."""
    start = time.perf_counter()
    result = work()
    print(f"{what:36} {time.perf_counter() - start:7.2f} s", flush=True)
    return result


if __name__ == "__main__":
    main()
