"""Copies of the volumes of an analysis: images, ground truth, and its champion's masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from minivess import config as configs
from minivess import files, names
from minivess.analysis import ensembling, predictions
from minivess.contracts import AnalysisResult, DatasetProfile
from minivess.errors import StoreError
from minivess.formats import volume
from minivess.grid import context
from minivess.orchestration.session import Session
from minivess.stages.analyse import as_trained
from minivess.tracking.store import fold_models


def copy(session: Session, analysis: AnalysisResult, profile: DatasetProfile, folder: Path) -> None:
    """Copy images, ground truth and the kept masks out of fold of the champion.

    Raises:
        DataError: neither this machine nor the remote holds this data version.
        StoreError: a mask is not kept any more.
    """
    cases = context.restore(session, profile)
    for case in cases.values():
        for role, file in (("images", case.image), ("labels", case.label)):
            if file is not None:
                files.copy(file, folder / role / file.name)
    predictor, ensemble = _predictor(session, analysis, profile)
    values = np.array(profile.classes, dtype=np.uint8)
    for judged in analysis.winner.volumes:
        case = cases[judged.case]
        task = predictor.tasks(case, {"": ensemble}).get("") if ensemble else None
        if task is None or not task.done:
            raise StoreError(
                f"The mask out of fold of {case.case} is not kept on this machine any more.",
                remedy=f"`minivess analyse --upstream {','.join(analysis.training_run_ids)}` makes "
                "it again and trains nothing; or leave out --volumes",
            )
        mask = values[predictions.read_mask(task.read().mask)]
        _, _, geometry = predictor.load(case)
        volume.write_mask(folder / "masks" / f"{case.case}.nii.gz", mask, geometry)


def _predictor(
    session: Session, analysis: AnalysisResult, profile: DatasetProfile
) -> tuple[predictions.OutOfFoldPredictor, ensembling.Ensemble | None]:
    """What finds the champion's masks by the settings of the analysis."""
    made_of = session.store.read_json(str(analysis.run_id), names.INGREDIENTS_ARTIFACT)
    decided = {part: made_of[part] for part in ("analysis", "evaluation")}
    models = fold_models.fetch(session.store, analysis.training_run_ids, session.home.cells)
    config = as_trained(configs.changed(session.config, decided), models)
    known, _ = ensembling.plan(models, config)
    contents = {one.case: one.content_hash for one in profile.volumes}
    predictor = predictions.OutOfFoldPredictor.of(models, config, session.home.judged, contents)
    return predictor, known.get(analysis.champion.family)
