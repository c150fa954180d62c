"""MLflow model of an ensemble: it names the runs of its members and holds none of their weights.

Loading it fetches the members' checkpoints from their runs, so it needs the tracking server (or
the database) that holds them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import mlflow.artifacts
from pydantic import Field

from minivess import combination
from minivess.combination import Combined
from minivess.contracts import Contract, FoldModel, How, Network, Window
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

    def voters(self, fold: int = EVERY_FOLD) -> list[list[tuple[Member, ...]]]:
        """Return the networks of each voter, a network as the members whose weights are averaged.

        Args:
            fold: the networks of this fold alone, as its volumes were judged.

        Raises:
            StoreError: no member is of this fold.
        """
        asked = [
            one
            for family in self.by_fold.get(fold, self.families)
            for one in self.members
            if one.family == family and fold in (EVERY_FOLD, one.fold)
        ]
        if not asked:
            folds = sorted({one.fold for one in self.members})
            raise StoreError(
                f"No member of this ensemble is of fold {fold}.",
                remedy=f"leave out `fold`, or give one of {folds}",
            )
        if self.how == "fold_soup":
            return [[tuple(asked)]]
        if self.how == "soup":
            folds = sorted({one.fold for one in asked})
            return [[tuple(one for one in asked if one.fold == k) for k in folds]]
        voters: dict[str, list[tuple[Member, ...]]] = {}
        for one in asked:
            voters.setdefault(one.family, []).append((one,))
        return list(voters.values())


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
        ensemble = read(folder)
        fetched = {
            one.run_id: Path(
                mlflow.artifacts.download_artifacts(run_id=one.run_id, artifact_path=one.artifact)
            )
            for one in ensemble.members
        }
        return cls(ensemble, fetched, device)

    def combined(self, fold: int = EVERY_FOLD) -> Combined:
        """Return what segments: all networks, or those of one fold."""
        voters = self.ensemble.voters(fold)
        return Combined(
            tuple(tuple(map(self._predictor, voter)) for voter in voters), self.ensemble.how
        )

    def _predictor(self, averaged: tuple[Member, ...]) -> Predictor:
        first = averaged[0]
        paths = tuple(self.checkpoints[one.run_id] for one in averaged)
        network = combination.averaged(first.network.model_dump_json(), paths, self.device)
        return Predictor.of(first.network, first.window, network, device=self.device)


def read(folder: Path) -> Members:
    """Return the members that the model folder of an ensemble names."""
    text = (folder / "artifacts" / CONFIG).read_text(encoding="utf-8")
    return Members.model_validate_json(text)


def is_ensemble(folder: Path) -> bool:
    """Whether a model folder is that of an ensemble."""
    return (folder / "artifacts" / CONFIG).is_file()
