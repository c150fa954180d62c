"""Run MONAI's DataAnalyzer, for tools of Auto3DSeg that start from its YAML.

It sees what networks see: labels after the label map, no resampling. What it cannot do with a
volume it only logs; here that is a finding.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from logging.handlers import BufferingHandler
from pathlib import Path
from typing import Any

from minivess.config import DataConfig, ResamplingConfig
from minivess.contracts import IGNORED, Case, Finding
from minivess.data.checks import finding
from minivess.formats import volume

SUMMARY, EACH = "datastats.yaml", "datastats_by_case.yaml"
SKIPPED = re.compile(r"Unable to process data (.*?) on cpu\. (.*)", re.DOTALL)


def run_analyzer(
    cases: Sequence[Case], folder: Path, *, config: DataConfig
) -> tuple[list[Path], list[Finding]]:
    """Write its two YAML files into `folder`; one finding for each volume that it left out.

    No file is written if it left out all.
    """
    from monai.apps.auto3dseg import data_analyzer as its
    from monai.transforms.spatial.dictionary import Orientationd

    by_name = {case.case: case for case in cases}
    folder.mkdir(parents=True, exist_ok=True)
    analyzer: Any = its.DataAnalyzer(
        {"training": [{"image": name, "label": name} for name in by_name]},
        dataroot="", output_path=str(folder / SUMMARY), device="cpu", worker=0, fmt="yaml",
        image_key="image", label_key="label",
    )  # fmt: skip
    axes = (("L", "R"), ("P", "A"), ("I", "S"))
    turn = Orientationd(keys=["image", "label"], axcodes="RAS", labels=axes)
    steps = [lambda entry: _read(by_name[entry["image"]], config), turn]
    with _collected(logging.getLogger(its.__name__)) as records:
        try:
            found = analyzer.get_all_case_stats(transform_list=steps)["stats_by_cases"]
        except Exception:
            if len(_reasons(records)) < len(cases):
                raise
            found = []  # it cannot sum up nothing
    done = {Path(str(entry["image_filepath"])).name for entry in found}
    why = _reasons(records)
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


def _read(case: Case, config: DataConfig) -> dict[str, Any]:
    """Return image and label as MetaTensor, as networks see them."""
    import torch
    from monai.data.meta_tensor import MetaTensor

    image, label, like = volume.load(case, label_map=config.labels, resampling=ResamplingConfig())
    if label is not None:
        label[label == IGNORED] = 0
    meta, affine = {"filename_or_obj": case.case}, torch.as_tensor(like.affine)
    arrays = {"image": image, "label": None if label is None else label[None]}
    return {
        role: MetaTensor(torch.as_tensor(array, dtype=torch.float32), affine, meta=dict(meta))
        for role, array in arrays.items()
    }


def _reasons(records: Sequence[logging.LogRecord]) -> dict[str, str]:
    matches = (SKIPPED.match(record.getMessage()) for record in records)
    return {Path(m[1]).name: " ".join(m[2].split())[:200].rstrip(".") for m in matches if m}


@contextmanager
def _collected(logger: logging.Logger) -> Iterator[list[logging.LogRecord]]:
    """Collect the records of a logger, whatever its level."""
    level, handler = logger.level, BufferingHandler(sys.maxsize)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield handler.buffer
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
