"""Run MONAI's DataAnalyzer, for tools of Auto3DSeg that start from its YAML.

It sees what networks see: labels after the label map, no resampling. What it cannot do with a
volume it only logs; here that is a finding.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from minivess.config import DataConfig, ResamplingConfig
from minivess.contracts import IGNORED, Case, Finding
from minivess.data.checks import finding
from minivess.data.formats import volume

SUMMARY, EACH = "datastats.yaml", "datastats_by_case.yaml"
SKIPPED = re.compile(r"Unable to process data (.*?) on cpu\. (.*)", re.DOTALL)


def run_analyzer(
    cases: Sequence[Case], folder: Path, *, config: DataConfig
) -> tuple[list[Path], list[Finding]]:
    """Write its two YAML files into `folder`; one finding for each volume that it left out.

    No file is written where it left out all.
    """
    import torch
    from monai.apps.auto3dseg import data_analyzer as its
    from monai.data.meta_tensor import MetaTensor
    from monai.transforms.spatial.dictionary import Orientationd

    def tensor(array: Any, case: Case, like: volume.Volume) -> Any:
        meta = {"filename_or_obj": case.case}
        affine = torch.as_tensor(like.affine)
        return MetaTensor(torch.as_tensor(array, dtype=torch.float32), affine, meta=meta)

    def read(entry: dict[str, str]) -> dict[str, Any]:
        case = by_name[entry["image"]]
        image, label, like = volume.load(
            case, label_map=config.labels, resampling=ResamplingConfig()
        )
        if label is not None:
            label[label == IGNORED] = 0
        return {
            "image": tensor(image, case, like),
            "label": tensor(label[None] if label is not None else None, case, like),
        }

    by_name = {case.case: case for case in cases}
    folder.mkdir(parents=True, exist_ok=True)
    analyzer: Any = its.DataAnalyzer(
        {"training": [{"image": case.case, "label": case.case} for case in cases]},
        dataroot="",
        output_path=str(folder / SUMMARY),
        device="cpu",
        worker=0,
        fmt="yaml",
        image_key="image",
        label_key="label",
    )
    axes = (("L", "R"), ("P", "A"), ("I", "S"))
    steps = [read, Orientationd(keys=["image", "label"], axcodes="RAS", labels=axes)]
    with _overheard(logging.getLogger(its.__name__)) as lines:
        try:
            found = analyzer.get_all_case_stats(transform_list=steps)["stats_by_cases"]
        except Exception:
            if len(_reasons(lines)) < len(cases):
                raise
            found = []  # it cannot sum up nothing
    done = {Path(str(entry["image_filepath"])).name for entry in found}
    why = _reasons(lines)
    findings = [
        finding(
            "analyzer_skipped",
            f"MONAI's DataAnalyzer left it out: {why.get(name, 'it gave no reason')}.",
            case=name,
        )
        for name in by_name
        if name not in done
    ]
    return [folder / name for name in (SUMMARY, EACH) if found], findings


def _reasons(lines: Sequence[str]) -> dict[str, str]:
    matches = (SKIPPED.match(line) for line in lines)
    return {Path(m[1]).name: " ".join(m[2].split())[:200].rstrip(".") for m in matches if m}


@contextmanager
def _overheard(logger: logging.Logger) -> Iterator[list[str]]:
    """Collect the messages of a logger, whatever its level."""
    lines: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    level, listener = logger.level, Listener()
    logger.addHandler(listener)
    logger.setLevel(logging.INFO)
    try:
        yield lines
    finally:
        logger.removeHandler(listener)
        logger.setLevel(level)
