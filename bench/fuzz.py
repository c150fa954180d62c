"""Coverage-guided fuzzing of what reads files: `fuzz plain.tif --seconds 60` (pip install atheris).

Kinds are those of tests/faults/mutations.py; without one, all are fuzzed in turn, each in a process
of its own. Inputs that reach new lines are kept in `--corpus`. An exception that is none of ours, a
read of over 2 s or 2 GB ends a kind; the input then lies beside its corpus.
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # `just bench` runs scripts with -P

INSTRUMENTED = ["minivess.formats", "minivess.data.pairing", "minivess.config", "nibabel", "nrrd"]
LIMITS = ("-timeout=2", "-rss_limit_mb=2048", "-max_len=20000", "-print_final_stats=1")


def fuzz(kind: str, seconds: int, corpus: Path) -> None:
    """Read inputs of one kind until the time is over or one goes wrong; ends the process."""
    atheris: Any = importlib.import_module("atheris")

    with atheris.instrument_imports(include=INSTRUMENTED):
        from minivess.errors import MinivessError
        from tests.faults import mutations

    folder = Path(tempfile.mkdtemp(prefix="minivess-fuzz-"))
    path, read = next(
        (file, door) for name, file, door in mutations.samples(folder) if name == kind
    )
    (corpus / "good").write_bytes(path.read_bytes())

    def once(content: bytes) -> None:
        path.write_bytes(content)
        try:
            read(path)
        except MinivessError:
            return

    words = [*LIMITS, f"-max_total_time={seconds}", f"-artifact_prefix={corpus}-", str(corpus)]
    atheris.Setup([sys.argv[0], *words], once)
    atheris.Fuzz()


def main() -> int:
    """Fuzz one kind here, or each in a process of its own."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("kind", nargs="?")
    asked.add_argument("--seconds", type=int, default=60)
    asked.add_argument("--corpus", type=Path, default=Path(tempfile.gettempdir()) / "minivess-fuzz")
    given = asked.parse_args()
    if given.kind:
        corpus = given.corpus / given.kind
        corpus.mkdir(parents=True, exist_ok=True)
        fuzz(given.kind, given.seconds, corpus)
    from tests.faults import mutations

    with tempfile.TemporaryDirectory() as folder:
        kinds = [kind for kind, *_ in mutations.samples(Path(folder))]
    words = [sys.executable, *sys.argv]
    return max(subprocess.run([*words, kind], check=False).returncode for kind in kinds)


if __name__ == "__main__":
    sys.exit(main())
