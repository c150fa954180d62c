"""Predictions of volumes by networks that did not train on them, and their judgement.

Each family is asked only through those of its models that have not seen the volume: the one
fold that validated it, or each fold by itself for a test volume. Families are averaged into
ensembles on the way, so that one volume's probabilities are all that is held in memory. What was
judged is kept by content key, so a run that was cut off goes on where it stopped.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from minivess import files, inference, keys, networks
from minivess.analysis import leaks
from minivess.config import ExperimentConfig
from minivess.contracts import Case, FoldModel, VolumeMetrics
from minivess.data.formats import volume
from minivess.errors import DataError, PlanError
from minivess.evaluation import metrics
from minivess.inference import Predictor

log = logging.getLogger(__name__)

Probabilities = npt.NDArray[np.float32]
Mask = npt.NDArray[np.uint8]
Combinations = Mapping[str, tuple[str, ...]]
KEPT_NETWORKS = 16


class Prediction(NamedTuple):
    """One judged mask; the file holds `mask` (X, Y, Z) of class indices."""

    metrics: VolumeMetrics
    mask: Path


class OutOfFold(NamedTuple):
    """Every judgement by name of family or ensemble, in the order of the cases."""

    predictions: dict[str, list[Prediction]]
    skipped: dict[str, list[str]]


def predict(
    model: FoldModel, case: Case, config: ExperimentConfig, *, device: str = "cpu"
) -> Probabilities:
    """Class probabilities (C, X, Y, Z) of a volume that this model did not train on.

    Raises:
        DataError: it did.
    """
    leaks.refuse(model, case)
    image, _, _ = volume.load(
        case, label_map=model.spec.label_map, resampling=config.data.resampling
    )
    return _forward(model, image, device)


def out_of_fold(
    models: Sequence[FoldModel],
    cases: Mapping[str, Case],
    config: ExperimentConfig,
    cache: Path,
    on_volume: Callable[[int, int], None] | None = None,
    *,
    combinations: Combinations | None = None,
    contents: Mapping[str, str] | None = None,
    required: bool = True,
) -> OutOfFold:
    """Predict and judge every labelled volume by every family and combination of families.

    Args:
        combinations: name -> families that it averages; none means the families themselves.
        contents: case -> hash of its bytes; a copy of a training volume counts as seen.
        on_volume: called with (done, total).

    Raises:
        DataError: a leak between training and validation, or nothing left to judge, if `required`.
    """
    leaks.check(models, cases)
    predictor = OutOfFoldPredictor.of(models, config, cache, contents or {})
    wanted = combinations or {family: (family,) for family in predictor.families}
    labelled = [case for case in cases.values() if case.label is not None]
    found = OutOfFold({name: [] for name in wanted}, {})
    for done, case in enumerate(labelled, start=1):
        tasks = predictor.tasks(case, wanted)
        for name, prediction in predictor.volume(case, tasks).items():
            found.predictions[name].append(prediction)
        if left := sorted(set(wanted) - set(tasks)):
            found.skipped[case.case] = left
        if on_volume:
            on_volume(done, len(labelled))
    if required and not any(found.predictions.values()):
        raise DataError(
            f"None of the {len(labelled)} labelled volumes is unseen by some model.",
            remedy="train all folds of a family: `minivess train` again reuses finished cells",
        )
    return found


def by_each_fold(
    models: Sequence[FoldModel],
    cases: Mapping[str, Case],
    *rest: Any,
    combinations: Combinations,
    **options: Any,
) -> tuple[dict[str, list[VolumeMetrics]], dict[str, list[str]]]:
    """Held-out volumes as one network sees them: judged by each fold's alone, values averaged.

    One network is what is served; the mean of the folds' probabilities would look better. A value
    that is undefined for one of the networks is undefined. The second part is who judged none. The
    other arguments are those of `out_of_fold`.
    """
    found: dict[str, dict[str, list[VolumeMetrics]]] = {
        name: {case.case: [] for case in cases.values() if case.label is not None}
        for name in combinations
    }
    for fold in sorted({model.spec.fold.index for model in models}):
        alone = [model for model in models if model.spec.fold.index == fold]
        there = {model.family for model in alone}
        wanted = {name: of for name, of in combinations.items() if there.issuperset(of)}
        judged = out_of_fold(
            alone, cases, *rest, combinations=wanted, required=False, **options
        ).predictions
        for name, predicted in judged.items():
            for one in predicted:
                found[name][one.metrics.case].append(one.metrics)
    skipped: dict[str, list[str]] = {}
    for name, by_case in found.items():
        for case in (case for case, rows in by_case.items() if not rows):
            skipped.setdefault(case, []).append(name)
    return {n: [_averaged(x) for x in of.values() if x] for n, of in found.items()}, skipped


def _averaged(rows: Sequence[VolumeMetrics]) -> VolumeMetrics:
    values: dict[str, float | None] = {}
    for name in rows[0].values:
        known = [value for row in rows if (value := row.values[name]) is not None]
        values[name] = float(np.mean(known)) if len(known) == len(rows) else None
    return rows[0].replace(values=values)


class EnsembleTask(NamedTuple):
    """One judgement to make: who speaks for each family, and where the answer is kept."""

    models: dict[str, tuple[FoldModel, ...]]
    folder: Path

    @property
    def done(self) -> bool:
        """Whether the answer is there; metrics are written last."""
        return (self.folder / "metrics.json").exists()

    def read(self) -> Prediction:
        """The answer."""
        values = files.read_json(self.folder / "metrics.json")
        return Prediction(VolumeMetrics.model_validate(values), self.folder / "mask.npz")


@dataclass(frozen=True)
class OutOfFoldPredictor:
    """What every volume is judged with."""

    families: dict[str, list[FoldModel]]
    config: ExperimentConfig
    cache: Path
    contents: Mapping[str, str]
    device: str
    code: dict[str, str] = field(repr=False)

    @classmethod
    def of(
        cls,
        models: Sequence[FoldModel],
        config: ExperimentConfig,
        cache: Path,
        contents: Mapping[str, str],
    ) -> OutOfFoldPredictor:
        """Group the models by family."""
        families: dict[str, list[FoldModel]] = {}
        for model in models:
            families.setdefault(model.family, []).append(model)
        return cls(families, config, cache, contents, _device(config), _code())

    def tasks(self, case: Case, wanted: Combinations) -> dict[str, EnsembleTask]:
        """The combinations whose every family has a model that has not seen the volume."""
        unseen = {
            family: tuple(one for one in models if not leaks.saw(one, case, self.contents))
            for family, models in self.families.items()
        }
        return {
            name: self._job(case, {family: unseen[family] for family in families})
            for name, families in wanted.items()
            if all(unseen[family] for family in families)
        }

    def volume(self, case: Case, tasks: Mapping[str, EnsembleTask]) -> dict[str, Prediction]:
        """Judge one volume; answers that are kept are not made again."""
        missing = {name: task for name, task in tasks.items() if not task.done}
        if missing:
            self._judge(case, missing)
        return {name: task.read() for name, task in tasks.items()}

    def _job(self, case: Case, models: dict[str, tuple[FoldModel, ...]]) -> EnsembleTask:
        key = keys.digest(
            {
                "case": case.case,
                "cells": {
                    family: [[one.cell_key, one.checkpoint.name] for one in those]
                    for family, those in models.items()
                },
                "resampling": self.config.data.resampling.key_fields(),
                "evaluation": self.config.evaluation.key_fields(),
                "code": self.code,
            }
        )
        return EnsembleTask(models, self.cache / key)

    def _judge(self, case: Case, tasks: Mapping[str, EnsembleTask]) -> None:
        spec = next(iter(self.families.values()))[0].spec
        image, label, geometry = volume.load(
            case, label_map=spec.label_map, resampling=self.config.data.resampling
        )
        if label is None:
            return
        truth = metrics.Truth(volume.class_indices(label, spec.classes, case.case), spec.classes)
        for task, probabilities in self._combined(image, tasks.values()):
            mask = inference.mask(probabilities)
            scores = metrics.judge(
                mask,
                truth,
                classes=spec.classes,
                config=self.config.evaluation,
                spacing=geometry.spacing,
            )
            _keep(task, mask, VolumeMetrics(case=case.case, group=case.group, values=scores))

    def _combined(
        self, image: Probabilities, tasks: Any
    ) -> Iterator[tuple[EnsembleTask, Probabilities]]:
        """Each task's mean probability, as soon as its last family has spoken."""
        waiting = [(task, list(task.models)) for task in tasks]
        sums: dict[Path, Probabilities] = {}
        for family in self.families:
            asked = [(task, left) for task, left in waiting if family in left]
            if not asked:
                continue
            said = self._mean(asked[0][0].models[family], image)
            for task, left in asked:
                left.remove(family)
                sums[task.folder] = sums[task.folder] + said if task.folder in sums else said
                if not left:
                    yield task, sums.pop(task.folder) / np.float32(len(task.models))

    def _mean(self, models: Sequence[FoldModel], image: Probabilities) -> Probabilities:
        total = _forward(models[0], image, self.device)
        for model in models[1:]:
            total += _forward(model, image, self.device)
        return total / np.float32(len(models))


def read_mask(path: Path) -> Mask:
    """A kept mask (X, Y, Z) of class indices."""
    with np.load(path) as archive:
        mask: Mask = archive["mask"]
    return mask


def _keep(task: EnsembleTask, mask: Mask, judged: VolumeMetrics) -> None:
    files.write(task.folder / "mask.npz", lambda path: np.savez_compressed(path, mask=mask))
    files.write_json(task.folder / "metrics.json", judged.model_dump(mode="json"))


def _forward(model: FoldModel, image: Probabilities, device: str) -> Probabilities:
    spec = model.spec
    network = _network(spec.network.model_dump_json(), model.checkpoint, device)
    return Predictor.of(spec.network, spec.window, network, device=device).probabilities(image)


@lru_cache(maxsize=KEPT_NETWORKS)
def _network(record: str, checkpoint: Path, device: str) -> Any:
    from minivess.contracts import Network

    return networks.load(Network.model_validate_json(record), checkpoint).to(device)


@lru_cache
def _code() -> dict[str, str]:
    return keys.code(keys.PREDICTION_CODE)


def _device(config: ExperimentConfig) -> str:
    if config.compute.profile == "cpu":
        return "cpu"
    import torch

    there = torch.cuda.is_available()
    if config.training.device == "cuda" and not there:
        raise PlanError(
            "training.device=cuda is asked for, but torch sees no GPU here.",
            remedy="leave out training.device",
        )
    asked = config.training.device
    return asked if asked != "auto" else "cuda" if there else "cpu"
