"""Trials of a search, stored by Optuna in a SQLite file; the only module that imports Optuna.

A suggestion is a function of the seed and of the results so far, so a search that was killed
resumes with the same trials: the one that was running is suggested again, with the same values.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from minivess.config import Dimension, SearchConfig
from minivess.errors import UsageError

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial, Trial

AGAIN_OF, RUN_ID, NOTE = "again_of", "run_id", "note"


def optuna() -> ModuleType:
    """Import Optuna.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise UsageError(
            "A search needs Optuna, which is not installed.",
            remedy="just setup search (in an environment of your own: pip install optuna)",
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


@dataclass(frozen=True)
class Suggestion:
    """Settings to try, by their keys."""

    settings: dict[str, Any]
    trial: Trial

    def opened(self, run_id: str) -> None:
        """Note the MLflow run in which they are tried."""
        self.trial.set_user_attr(RUN_ID, run_id)

    def report(self, value: float, step: int) -> None:
        """Report an intermediate value.

        Raises:
            optuna.TrialPruned: it is below the median of the other trials.
        """
        self.trial.report(value, step)
        if self.trial.should_prune():
            message = f"pruned at step {step} with {value:.4f}, below the median of the others"
            raise optuna().TrialPruned(message)


class Trials:
    """The trials of one search; `key` is the content key of its data, settings and code."""

    def __init__(self, file: Path, key: str, search: SearchConfig) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self.search = search
        self.study: Study = optuna().create_study(
            study_name=key,
            storage=f"sqlite:///{file}",
            load_if_exists=True,
            direction="maximize",
            pruner=_pruner(search),
        )

    @property
    def ended(self) -> list[FrozenTrial]:
        """Complete, pruned and failed trials in order, without those of a killed process."""
        every = self.study.get_trials(deepcopy=False)
        dead = {trial.user_attrs.get(AGAIN_OF) for trial in every}
        return [trial for trial in every if trial.state.is_finished() and trial.number not in dead]

    @property
    def best(self) -> tuple[int, float, dict[str, Any]] | None:
        """Number, value and settings of the complete trial with the highest value."""
        complete = [
            (trial.value, -number, self.values(trial))
            for number, trial in enumerate(self.ended)
            if trial.state.name == "COMPLETE" and trial.value is not None
        ]
        if not complete:
            return None
        value, number, found = max(complete, key=lambda each: each[:2])
        return -number, value, found

    def values(self, trial: FrozenTrial) -> dict[str, Any]:
        """The settings of a trial, by their keys."""
        return {
            key: json.loads(value) if self.search.space[key].choices is not None else value
            for key, value in trial.params.items()
        }

    def rows(self) -> list[dict[str, Any]]:
        """One row for each trial."""
        return [
            {"trial": number, "state": trial.state.name.lower(), "value": trial.value,
             RUN_ID: trial.user_attrs.get(RUN_ID), **self.values(trial)}
            for number, trial in enumerate(self.ended)
        ]  # fmt: skip

    def explained(self) -> list[dict[str, Any]]:
        """Rows with the `seconds` of each trial, `why` it was tried, and its `end`."""
        found = []
        for number, (trial, row) in enumerate(zip(self.ended, self.rows(), strict=True)):
            note = trial.user_attrs.get(NOTE, "")
            ends = {"COMPLETE": f"{self.search.metric} {trial.value}", "PRUNED": note}
            found.append(row | {
                "seconds": trial.duration.total_seconds() if trial.duration else 0.0,
                "why": self._why(number, trial),
                "end": ends.get(trial.state.name, f"failed: {note}"),
            })  # fmt: skip
        return found

    def _why(self, number: int, trial: FrozenTrial) -> str:
        if AGAIN_OF in trial.user_attrs:
            return "once more, because its process was killed"
        if self.search.sampler == "random":
            return "drawn at random, as search.sampler=random says"
        if number < self.search.startup_trials:
            return f"drawn at random, as the first {self.search.startup_trials} are"
        return f"proposed by TPE, near the better of the {number} trials before"

    @property
    def seconds(self) -> float:
        """How long the trials that ended have taken together."""
        return float(sum(one["seconds"] for one in self.explained()))

    def importance(self) -> dict[str, float]:
        """Share of each setting in the variance of the metric (fANOVA); empty below four trials."""
        values = {trial.value for trial in self.ended if trial.state.name == "COMPLETE"}
        if len(values) < 4:
            return {}
        importance = optuna().importance
        evaluator = importance.FanovaImportanceEvaluator(seed=self.search.sampler_seed)
        found: dict[str, float] = importance.get_param_importances(self.study, evaluator=evaluator)
        return found

    def ask(self) -> Suggestion:
        """The next settings to try."""
        self._requeue()
        seed = self.search.sampler_seed + len(self.ended)
        self.study.sampler = _sampler(self.search, seed)
        trial = self.study.ask()
        space = self.search.space.items()
        return Suggestion({key: _suggest(trial, key, kind) for key, kind in space}, trial)

    def _requeue(self) -> None:
        """Queue again the trials that were running when their process was killed."""
        states = optuna().trial.TrialState
        every = self.study.get_trials(deepcopy=False)
        queued = {trial.user_attrs.get(AGAIN_OF) for trial in every}
        for trial in every:
            if trial.state == states.RUNNING:
                if trial.number not in queued:
                    self.study.enqueue_trial(trial.params, user_attrs={AGAIN_OF: trial.number})
                self.study.tell(trial.number, state=states.FAIL)

    def tell(
        self,
        suggestion: Suggestion,
        value: float | None = None,
        *,
        pruned: bool = False,
        note: str = "",
    ) -> None:
        """Close a trial: with its value, pruned, or else failed; `note` says why."""
        states = optuna().trial.TrialState
        if note:
            suggestion.trial.set_user_attr(NOTE, note)
        if value is not None:
            self.study.tell(suggestion.trial, value)
        else:
            self.study.tell(suggestion.trial, state=states.PRUNED if pruned else states.FAIL)


def _suggest(trial: Trial, key: str, dimension: Dimension) -> Any:
    if dimension.choices is not None:
        # Optuna keeps numbers and text only, and a choice may be a list.
        texts = [json.dumps(choice) for choice in dimension.choices]
        return json.loads(trial.suggest_categorical(key, texts))
    low, high, step = dimension.low, dimension.high, dimension.step
    assert low is not None
    assert high is not None
    if isinstance(low, int) and isinstance(high, int) and not isinstance(step, float):
        return trial.suggest_int(key, low, high, step=step or 1, log=dimension.log)
    return trial.suggest_float(key, low, high, step=step, log=dimension.log)


def _sampler(search: SearchConfig, seed: int) -> Any:
    samplers = optuna().samplers
    if search.sampler == "random":
        return samplers.RandomSampler(seed=seed)
    return samplers.TPESampler(seed=seed, n_startup_trials=search.startup_trials)


def _pruner(search: SearchConfig) -> Any:
    pruners = optuna().pruners
    if search.pruner == "none":
        return pruners.NopPruner()
    return pruners.MedianPruner(n_startup_trials=search.startup_trials)


def shown(values: Mapping[str, Any]) -> str:
    """Settings as a user types them."""
    return " ".join(
        f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={json.dumps(value)}"
        for key, value in values.items()
    )
