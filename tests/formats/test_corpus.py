"""Broken and odd files: each has exactly its findings, none crashes or takes the memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from minivess.config import DataConfig
from minivess.contracts import Case
from minivess.data.checks import CHECKS, table
from minivess.data.pairing.cases import pair_files
from minivess.data.profiling.measurement import measure
from minivess.data.profiling.quality import check_pairing, check_set
from tests.conftest import tube, write_nifti
from tests.formats.corpus import KINDS, SETS, lay

pytestmark = pytest.mark.slow

PAGE = Path(__file__).resolve().parents[2] / "docs" / "checks.md"
MEMORY = 700_000_000  # beyond what libraries take; the files promise terabytes

PROFILE = """
import json, resource, sys
from pathlib import Path
from minivess.config import DataConfig
from minivess.data.pairing import cases
from minivess.data.profiling import profile
from minivess.data.versions import file_hashes
root, home = map(Path, sys.argv[1:3])
taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + int(sys.argv[3]),) * 2)
pairing = cases.pair_files(root)
paths = [path for case in pairing.cases for path in case.files]
measured = profile.profile(
    pairing, file_hashes.FileHashes(home / "index.json").hashes(paths),
    config=DataConfig(outlier_z=1e9), cache=home,
)
print(json.dumps({
    "findings": [finding.model_dump() for finding in measured.findings],
    "quarantined": measured.quarantined,
}))
"""


@pytest.fixture(scope="module")
def profiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, str]]]:
    """The whole corpus, profiled as one folder by one process that may not take much memory."""
    folder = tmp_path_factory.mktemp("corpus")
    command = [sys.executable, "-c", PROFILE, str(lay(folder / "root"))]
    command += [str(folder / "home"), str(MEMORY)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_has_exactly_its_findings(profiled, kind: str) -> None:
    _, expected = KINDS[kind]
    found = [finding for finding in profiled["findings"] if finding["case"] == kind]
    assert sorted((f["code"], f["severity"]) for f in found) == sorted(expected)
    assert all(finding["message"] and finding["remedy"] for finding in found)
    errors = any(severity == "error" for _, severity in expected)
    assert (kind in profiled["quarantined"]) == errors


def test_the_corpus_is_large_and_everything_found_belongs_to_it(profiled) -> None:
    assert len(KINDS) >= 60
    strange = [f for f in profiled["findings"] if f["case"] not in KINDS]
    assert {(f["code"], f["severity"]) for f in strange} == {("leftover_file", "info")}
    assert len(strange) == 4


@pytest.mark.parametrize("kind", SETS)
def test_a_set_has_exactly_its_findings(tmp_path: Path, kind: str) -> None:
    lay_set, expected = SETS[kind]
    lay_set(tmp_path)
    pairing = pair_files(tmp_path)
    measured = [measure(case, config=DataConfig()) for case in pairing.cases]
    stats = [result.stats for result in measured]
    signatures = {result.stats.case: result.signature for result in measured}
    findings = [
        *check_pairing(pairing),
        *(finding for result in measured for finding in result.findings),
        *check_set(stats, signatures, outlier_z=6.0),
    ]
    assert {(f.code, f.severity) for f in findings} == set(expected)


def test_every_code_and_severity_has_its_bad_file() -> None:
    made = {pair for _, expected in (*KINDS.values(), *SETS.values()) for pair in expected}
    made |= {("leftover_file", "info")}  # among the corpus, of no kind
    # A decision; settings; what a model was trained on.
    elsewhere = {
        ("rejected", "info"), ("analyzer_skipped", "warning"), ("spacing_overridden", "warning"),
        ("label_map_unused", "warning"), ("out_of_range", "warning"), ("too_large", "error"),
    }  # fmt: skip
    every = {(code, severity) for code, check in CHECKS.items() for severity in check.severities}
    assert made | elsewhere == every


def test_every_check_stands_in_the_docs_as_in_the_code() -> None:
    assert PAGE.read_text(encoding="utf-8").endswith(f"\n{table()}")


def test_findings_use_only_the_severities_of_their_code(profiled) -> None:
    for finding in profiled["findings"]:
        assert finding["severity"] in CHECKS[finding["code"]].severities


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_a_file_that_may_not_be_read_is_a_finding(make_dataset: Callable[..., Path]) -> None:
    (case,) = pair_files(make_dataset(1)).cases
    case.image.chmod(0)
    stats, (finding,), *_ = measure(case, config=DataConfig())
    assert (stats, finding.code, finding.severity) == (None, "unreadable", "error")
    assert finding.remedy == f"chmod u+r {case.image}"


def test_a_file_that_vanishes_meanwhile_is_a_finding(make_dataset: Callable[..., Path]) -> None:
    (case,) = pair_files(make_dataset(1)).cases
    case.image.unlink()
    stats, (finding,), *_ = measure(case, config=DataConfig())
    assert (stats, finding.code, finding.severity) == (None, "unreadable", "error")


def test_voxels_are_those_that_were_stored_however_they_are_packed(tmp_path: Path) -> None:
    image, mask = tube((16, 18, 6), 0)
    label = write_nifti(tmp_path / "label.nii.gz", mask)
    numbers = []
    for name, array in {"a.nii": image, "b.nii.gz": image, "c.nii": image.astype(">u2")}.items():
        case = Case(case="a", image=write_nifti(tmp_path / name, array), label=label)
        stats, *_ = measure(case, config=DataConfig())
        assert stats is not None
        numbers.append((stats.intensity_mean, stats.intensity_std, stats.percentiles))
    assert numbers[0] == numbers[1] == numbers[2]
    assert numbers[0][0] == pytest.approx(np.mean(image))
