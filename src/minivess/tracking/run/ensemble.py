"""MLflow model of an ensemble: it names the runs of its members and holds none of their weights.

Loading it fetches the members' checkpoints from their runs, so it needs the tracking server (or
the database) that holds them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import mlflow.artifacts
import numpy as np
from pydantic import Field

from minivess import combination
from minivess.combination import How, Probabilities
from minivess.contracts import Contract, FoldModel, Network, Shape, Window
from minivess.errors import StoreError
from minivess.inference import Predictor

CONFIG = "ensemble_config.json"
EVERY_FOLD = -1


class Member(Contract):
    """A fold model by its run."""

    family: str
    fold: int
    run_id: str
    artifact: str
    network: Network
    window: Window


class Members(Contract):
    """The members of an ensemble and how they are combined."""

    how: How
    families: tuple[str, ...]
    by_fold: dict[int, tuple[str, ...]] = Field(default={})
    members: tuple[Member, ...]


def members(models: Sequence[FoldModel], families: Sequence[str]) -> tuple[Member, ...]:
    """Return the fold models of these families as members."""
    return tuple(
        Member(
            family=one.family,
            fold=one.spec.fold.index,
            run_id=one.run_id,
            artifact=f"checkpoints/{one.checkpoint.name}",
            network=one.spec.network,
            window=one.spec.window,
        )
        for one in models
        if one.family in families
    )


@dataclass(frozen=True)
class EnsemblePredictor:
    """The members with their checkpoints on this machine."""

    ensemble: Members
    checkpoints: dict[str, Path]
    """Run id of a member -> its checkpoint."""
    device: str

    @classmethod
    def of(cls, folder: Path, device: str) -> EnsemblePredictor:
        """Read a model folder, and fetch the checkpoints of its members."""
        values = json.loads((folder / "artifacts" / CONFIG).read_text(encoding="utf-8"))
        ensemble = Members.model_validate(values)
        fetched = {
            one.run_id: Path(
                mlflow.artifacts.download_artifacts(run_id=one.run_id, artifact_path=one.artifact)
            )
            for one in ensemble.members
        }
        return cls(ensemble, fetched, device)

    @property
    def in_channels(self) -> int:
        """Channels of the volumes."""
        return self.ensemble.members[0].network.in_channels

    @property
    def window(self) -> Window:
        """The window of the first member; all have the same resampling."""
        return self.ensemble.members[0].window

    @property
    def divisor(self) -> Shape:
        """The sides of windows are multiples of it, for every member."""
        found = [self._predictor((one,)).divisor for one in self.ensemble.members]
        x, y, z = (int(np.lcm.reduce(sides)) for sides in zip(*found, strict=True))
        return x, y, z

    def probabilities(self, image: Probabilities, fold: int = EVERY_FOLD) -> Probabilities:
        """Raw intensities (C, X, Y, Z) -> shares of classes or votes (C_out, X, Y, Z).

        Args:
            fold: use the networks of this fold alone, as its volumes were judged.

        Raises:
            StoreError: no member is of this fold.
        """
        whole = self.ensemble
        families = whole.by_fold.get(fold, whole.families)
        asked = [
            one
            for family in families
            for one in whole.members
            if one.family == family and fold in (EVERY_FOLD, one.fold)
        ]
        if not asked:
            folds = sorted({one.fold for one in whole.members})
            raise StoreError(
                f"No member of this ensemble is of fold {fold}.",
                remedy=f"leave out `fold`, or give one of {folds}",
            )
        voters: dict[str, list[tuple[Member, ...]]] = {}
        if whole.how == "soup":
            folds = sorted({one.fold for one in asked})
            voters[""] = [tuple(one for one in asked if one.fold == k) for k in folds]
        else:
            for one in asked:
                voters.setdefault(one.family, []).append((one,))
        first, *others = (
            combination.share(self._mean(of, image), whole.how, len(voters))
            for of in voters.values()
        )
        for other in others:
            first += other
        return first

    def _mean(self, voter: Sequence[tuple[Member, ...]], image: Probabilities) -> Probabilities:
        return combination.mean(
            combination.pack(self._predictor(one).probabilities(image)) for one in voter
        )

    def _predictor(self, averaged: tuple[Member, ...]) -> Predictor:
        first = averaged[0]
        paths = tuple(self.checkpoints[one.run_id] for one in averaged)
        network = combination.averaged(first.network.model_dump_json(), paths, self.device)
        return Predictor.of(first.network, first.window, network, device=self.device)


def is_ensemble(folder: Path) -> bool:
    """Whether a model folder is that of an ensemble."""
    return (folder / "artifacts" / CONFIG).is_file()
