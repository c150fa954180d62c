"""Out-of-fold predictions and their scores.

A volume is predicted by the models of a family that did not train on it: the fold that validated
it or, for a test volume, each fold separately. Probabilities are kept (`kept`) and ensembles are
combined on the way, so only one volume's are in memory. Results are cached by content key, so an
interrupted analysis resumes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from minivess import combination, files, inference, keys
from minivess.analysis import leaks
from minivess.analysis.ensembling import Combinations, Ensemble
from minivess.analysis.kept import KeptProbabilities
from minivess.combination import Packed, Probabilities
from minivess.config import ExperimentConfig
from minivess.contracts import Case, CellSpec, FoldModel, How, VolumeMetrics
from minivess.errors import DataError, PlanError
from minivess.evaluation import metrics
from minivess.formats import volume
from minivess.formats.volume import Volume
from minivess.inference import Predictor

log = logging.getLogger(__name__)

Mask = npt.NDArray[np.uint8]
Averaged = tuple[FoldModel, ...]
"""Fold models whose weights are averaged; mostly one."""
GB = 10**9


class Prediction(NamedTuple):
    """Scores of one predicted mask; the file holds `mask` (X, Y, Z) of class indices."""

    metrics: VolumeMetrics
    mask: Path


class OutOfFold(NamedTuple):
    """Predictions by name of family or ensemble, in the order of the cases."""

    predictions: dict[str, list[Prediction]]
    skipped: dict[str, list[str]]


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
    """Predict and evaluate every labelled volume by every family and combination of families.

    Args:
        combinations: name -> family or ensemble; None means the families themselves.
        contents: case -> hash of its bytes; a copy of a training volume counts as seen.
        on_volume: called with (done, total).

    Raises:
        DataError: a leak between training and validation, or (if `required`) nothing to evaluate.
    """
    leaks.check(models, cases)
    predictor = OutOfFoldPredictor.of(models, config, cache, contents or {})
    wanted = combinations or {family: Ensemble((family,)) for family in predictor.families}
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
    *,
    combinations: Combinations,
    **options: Any,
) -> tuple[dict[str, list[VolumeMetrics]], dict[str, list[str]]]:
    """Evaluate held-out volumes by each fold's network alone, and average the scores.

    One network is served; the mean of the folds' probabilities would look better. A score that is
    undefined for one network is undefined.

    Args:
        options: the other arguments of `out_of_fold`.

    Returns:
        Scores by name, and case -> names that could not be evaluated on it.
    """
    found: dict[str, dict[str, list[VolumeMetrics]]] = {
        name: {case.case: [] for case in cases.values() if case.label is not None}
        for name in combinations
    }
    for fold in sorted({model.spec.fold.index for model in models}):
        alone = [model for model in models if model.spec.fold.index == fold]
        there = {model.family for model in alone}
        wanted = {n: one for n, one in combinations.items() if there.issuperset(one.families)}
        judged = out_of_fold(
            alone, cases, combinations=wanted, required=False, **options
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
    """One evaluation: the networks of each voter, and the folder of the cached result."""

    voters: dict[str, tuple[Averaged, ...]]
    how: How
    folder: Path

    @property
    def done(self) -> bool:
        """Whether the result is cached; metrics are written last."""
        return (self.folder / "metrics.json").exists()

    def read(self) -> Prediction:
        """Read the cached result."""
        values = files.read_json(self.folder / "metrics.json")
        return Prediction(VolumeMetrics.model_validate(values), self.folder / "mask.npz")


@dataclass(frozen=True)
class OutOfFoldPredictor:
    """Predict and evaluate volumes by models that did not train on them."""

    families: dict[str, list[FoldModel]]
    config: ExperimentConfig
    cache: Path
    contents: Mapping[str, str]
    device: str
    folds: Mapping[str, int]
    """Case -> fold that validated it."""
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
        folds = {case: model.spec.fold.index for model in models for case in model.spec.fold.val}
        return cls(families, config, cache, contents, _device(config), folds, _code())

    @property
    def kept(self) -> KeptProbabilities:
        """Probabilities on disk."""
        budget = int(self.config.analysis.kept_gb * GB)
        return KeptProbabilities(self.cache / "probabilities", budget)

    @property
    def spec(self) -> CellSpec:
        """What all models share: classes and label map."""
        return next(iter(self.families.values()))[0].spec

    def load(self, case: Case) -> tuple[Probabilities, Mask | None, Volume]:
        """Read image (1, X, Y, Z), truth (X, Y, Z) as class indices if labelled, and geometry."""
        image, label, geometry = volume.load(
            case, label_map=self.spec.label_map, resampling=self.config.data.resampling
        )
        if label is None:
            return image, None, geometry
        return image, volume.class_indices(label, self.spec.classes, case.case), geometry

    def combined(self, case: Case, ensemble: Ensemble, image: Probabilities) -> Probabilities:
        """Return what an ensemble's unseen networks say of a volume, (C, X, Y, Z)."""
        task = self.tasks(case, {"": ensemble})[""]
        ((_, said),) = self._combined(case, image, [task])
        return said

    def tasks(self, case: Case, wanted: Combinations) -> dict[str, EnsembleTask]:
        """Return the combinations whose families all have a model that has not seen the volume."""
        fold = self.folds.get(case.case)
        voters = {name: self._voters(case, one, one.of(fold)) for name, one in wanted.items()}
        return {
            name: EnsembleTask(voters[name], one.how, self.cache / self._key(case, one, of))
            for name, one in wanted.items()
            if (of := voters[name]) and all(of.values())
        }

    def unseen(self, case: Case, family: str) -> list[FoldModel]:
        """The models of a family that have not trained on a volume or its copy."""
        return [one for one in self.families[family] if not leaks.saw(one, case, self.contents)]

    def _voters(
        self, case: Case, ensemble: Ensemble, families: Sequence[str]
    ) -> dict[str, tuple[Averaged, ...]]:
        unseen = {family: self.unseen(case, family) for family in families}
        if ensemble.how == "fold_soup":
            (models,) = unseen.values()
            whole = models == self.families[families[0]]
            return {f"folds of {families[0]}": (tuple(models),) if whole else ()}
        if ensemble.how != "soup":
            return {family: tuple((one,) for one in models) for family, models in unseen.items()}
        folds = sorted({one.spec.fold.index for models in unseen.values() for one in models})
        of_fold = [
            tuple(one for models in unseen.values() for one in models if one.spec.fold.index == k)
            for k in folds
        ]
        whole = all(len(models) == len(families) for models in of_fold)
        return {"+".join(families): tuple(of_fold) if whole else ()}

    def volume(self, case: Case, tasks: Mapping[str, EnsembleTask]) -> dict[str, Prediction]:
        """Evaluate one volume; cached results are reused."""
        missing = {name: task for name, task in tasks.items() if not task.done}
        if missing:
            self._judge(case, missing)
        return {name: task.read() for name, task in tasks.items()}

    def _key(self, case: Case, ensemble: Ensemble, voters: Mapping[str, Sequence[Averaged]]) -> str:
        ingredients = {
            "case": [case.case, case.group, self.contents.get(case.case)],
            "cells": {name: [_cells(one) for one in of] for name, of in voters.items()},
            "how": ensemble.how,
            "resampling": self.config.data.resampling.key_fields(),
            "evaluation": self.config.evaluation.key_fields(),
            "code": self.code,
        }
        return keys.digest(ingredients)

    def _judge(self, case: Case, tasks: Mapping[str, EnsembleTask]) -> None:
        image, label, geometry = self.load(case)
        if label is None:
            return
        classes = self.spec.classes
        truth = metrics.Truth(label, classes)
        for task, probabilities in self._combined(case, image, tasks.values()):
            mask = inference.mask(probabilities)
            scores = metrics.judge(
                mask,
                truth,
                classes=classes,
                config=self.config.evaluation,
                spacing=geometry.spacing,
                counts=True,
            )
            _keep(task, mask, VolumeMetrics(case=case.case, group=case.group, values=scores))

    def _combined(
        self, case: Case, image: Probabilities, tasks: Iterable[EnsembleTask]
    ) -> Iterator[tuple[EnsembleTask, Probabilities]]:
        """Yield what each task's voters say together once the last of them is predicted."""
        waiting = [(task, list(task.voters)) for task in tasks]
        sums: dict[Path, Probabilities] = {}
        for voter, networks_of in {
            n: of for task, _ in waiting for n, of in task.voters.items()
        }.items():
            mean = self.mean(case, networks_of, lambda: image)
            for task, left in waiting:
                if voter not in left:
                    continue
                left.remove(voter)
                said = combination.share(mean, task.how, len(task.voters))
                sums[task.folder] = sums[task.folder] + said if task.folder in sums else said
                if not left:
                    yield task, sums.pop(task.folder)

    def mean(
        self, case: Case, voter: Sequence[Averaged], image: Callable[[], Probabilities]
    ) -> Probabilities:
        """The mean probabilities (C, X, Y, Z) of networks, kept or predicted now.

        Args:
            image: reads the volume (1, X, Y, Z) where it is needed.
        """
        return combination.mean(self._probabilities(case, one, image) for one in voter)

    def _probabilities(
        self, case: Case, models: Averaged, image: Callable[[], Probabilities]
    ) -> Packed:
        ingredients = {
            "case": [case.case, self.contents.get(case.case)],
            "cells": _cells(models),
            "resampling": self.config.data.resampling.key_fields(),
            "code": keys.code(keys.PROBABILITY_CODE),
        }
        key = keys.digest(ingredients)
        return self.kept.get(key, lambda: _forward(models, image(), self.device))


def _cells(models: Averaged) -> list[list[str]]:
    return [[one.cell_key, one.checkpoint.name] for one in models]


def read_mask(path: Path) -> Mask:
    """Read a cached mask (X, Y, Z) of class indices."""
    with np.load(path) as archive:
        mask: Mask = archive["mask"]
    return mask


def _keep(task: EnsembleTask, mask: Mask, judged: VolumeMetrics) -> None:
    files.write(task.folder / "mask.npz", lambda path: np.savez_compressed(path, mask=mask))
    files.write_json(task.folder / "metrics.json", judged.model_dump(mode="json"))


def _forward(models: Averaged, image: Probabilities, device: str) -> Probabilities:
    spec = models[0].spec
    checkpoints = tuple(model.checkpoint for model in models)
    network = combination.averaged(spec.network.model_dump_json(), checkpoints, device)
    return Predictor.of(spec.network, spec.window, network, device=device).probabilities(image)


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
            "training.device=cuda is set, but torch finds no GPU here.",
            remedy="leave out training.device",
        )
    asked = config.training.device
    return asked if asked != "auto" else "cuda" if there else "cpu"
