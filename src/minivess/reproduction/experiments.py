"""Compare two experiments, or two analyses of one: figures of the same volumes, and what changed.

Volumes are the same if image and label have the same bytes, whatever they are called.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

from minivess import config as configs
from minivess import files, keys, names, text
from minivess.analysis import formatting, paired
from minivess.config import AnalysisConfig, ExperimentConfig
from minivess.contracts import AnalysisResult, RunRecord, VolumeMetrics
from minivess.errors import DataError, UsageError, nearest
from minivess.orchestration import handoff
from minivess.orchestration.session import Session
from minivess.reproduction import comparison
from minivess.runtime import templates

HERE = Path(__file__).parent
RUN_ID = re.compile(r"[0-9a-f]{32}")
MODEL = re.compile(r"models:/.*|.*@.*|.*/\d+")
RULES = {names.PRIMARY: "masd_cap", "nsd": "nsd_tolerance"}
"""Settings by which a metric of the same mask has another value."""
APART = ("data", "fold", "code", "versions", "own_modules")
"""Ingredients of a training that are no settings."""
KNOWN = "two of the experiments and analyses that `minivess runs analysis` lists"
OTHERS = f"give {KNOWN}"


class Side(NamedTuple):
    """A finished analysis: its champion's judgements by content, and what decided them."""

    label: str
    result: AnalysisResult
    volumes: dict[str, VolumeMetrics]
    """By content; copies within one dataset are one piece of evidence."""
    facts: dict[str, Any]

    @property
    def metrics(self) -> list[str]:
        """Dice, clDice and the metric that chose the champion, each class after its mean."""
        stems = dict.fromkeys(("dice", "cldice", self.result.champion.metric))
        return [m for stem in stems for m in self.result.winner.intervals if names.stem(m) == stem]

    @property
    def rule(self) -> str:
        """The metrics, the one that chose the champion, and the setting that decides its value."""
        metric = self.result.champion.metric
        setting = RULES.get(metric)
        value = f" ({setting}={self.facts['settings']['evaluation'][setting]})" if setting else ""
        return f"{metric}{value}, with figures of {', '.join(self.metrics)}"


def are_analyses(session: Session, words: Sequence[str]) -> bool:
    """Whether two words name experiments or analyses; else both name models.

    Raises:
        UsageError: one of each.
    """
    models = [word for word in words if _is_model(session, word)]
    if len(models) == 1:
        raise UsageError(
            f"Of {' and '.join(words)}, {models[0]} names a model, and the other does not.",
            remedy=f"give two models, NAME/version or NAME@alias, or {KNOWN}",
        )
    return not models


def _is_model(session: Session, word: str) -> bool:
    if not RUN_ID.fullmatch(word):
        return bool(MODEL.fullmatch(word))
    return session.store.get(word).tags.get(names.KIND) != names.ANALYSIS


def compare(session: Session, old: str, new: str) -> dict[str, Any]:
    """Print how the figures of two analyses differ on the same volumes, and what else differs.

    Args:
        old, new: experiments, of which the latest finished analysis counts, or ids of analyses.

    Raises:
        UsageError: a name that means nothing, twice the same analysis, or settings of this command.
        StoreError: an analysis that is not finished.
        DataError: other metrics, or no common volume.
    """
    if given := [word for word in session.words if re.match(r"(?!tracking\.)[\w.]+=", word)]:
        raise UsageError(
            f"{', '.join(given)} decides nothing between two analyses.", remedy="leave it out"
        )
    before, after = (_side(session, word) for word in (old, new))
    common = _common(before, after)
    found = {
        "old": before.label,
        "new": after.label,
        "analyses": [before.result.run_id, after.result.run_id],
        "common": [after.volumes[content].case for content in common],
        "only_old": [one.case for key, one in before.volumes.items() if key not in after.volumes],
        "only_new": [one.case for key, one in after.volumes.items() if key not in before.volumes],
        "metrics": list(_figures(before, after, common)),
        "changed": list(_changes(before.facts, after.facts)),
    }
    return found | _tell(session, found)


def _side(session: Session, word: str) -> Side:
    asked, ids = (session, [word]) if RUN_ID.fullmatch(word) else (_named(session, word), [])
    result = handoff.receive_analysis(asked, ids)
    record = session.store.get(str(result.run_id))
    began = datetime.fromtimestamp(record.start_time / 1000, UTC)
    label = f"{result.experiment} of {began:%Y-%m-%d %H:%M} ({record.run_id[:8]}, "
    profile = handoff.profile_of(session, record.param(names.UPSTREAM_PROFILE))
    training = handoff.first_member(session, session.store.get(result.champion.run_id))
    contents = {one.case: one.content_hash for one in profile.volumes}
    volumes = {contents[volume.case]: volume for volume in result.winner.volumes}
    facts = _facts(session, record, training)
    facts["data"] |= {"dataset": profile.dataset, "volumes": profile.n_volumes}
    return Side(f"{label}{result.champion.family})", result, volumes, facts)


def _named(session: Session, experiment: str) -> Session:
    """The session of an experiment, in which printed commands name it.

    Raises:
        UsageError: there is no such experiment.
    """
    known = session.store.experiments()
    if experiment not in known:
        near = nearest(experiment, known)
        raise UsageError(
            f"{experiment!r} is no experiment of this home, nor an analysis or a model.",
            remedy=f"did you mean {near}?" if near else OTHERS,
        )
    asked = session.with_config(configs.changed(session.config, {"name": experiment}))
    asked.words = (f"name={experiment}",)
    return asked


def _facts(session: Session, record: RunRecord, training: RunRecord) -> dict[str, dict[str, Any]]:
    """What decided an analysis and its champion: part -> name -> value, or more names."""
    store = session.store
    cells = store.read_json(training.run_id, names.INGREDIENTS_ARTIFACT)
    judged = store.read_json(record.run_id, names.INGREDIENTS_ARTIFACT)
    first = next(iter(cells.values()))
    frozen = store.read_text(training.run_id, "environment/frozen_deps.txt")
    return {
        "data": dict(first["data"]),
        "code": {
            name: {key: run.params.get(f"sys_git_{key}") for key in ("commit", "dirty")} | code
            for name, run, code in (
                ("training", training, first["code"] | first["own_modules"]),
                ("analysis", record, judged["code"]),
            )
        },
        "settings": {
            **{name: value for name, value in first.items() if name not in APART},
            "folds": {name: cell["fold"] for name, cell in cells.items()},
            "analysis": judged["analysis"],
            "evaluation": judged["evaluation"],
        },
        "software": comparison.software(training.params, frozen),
    }


def _common(old: Side, new: Side) -> list[str]:
    """The volumes of both, in the order of `new`.

    Raises:
        UsageError, DataError: there is nothing to compare.
    """
    if old.result.run_id == new.result.run_id:
        raise UsageError(
            f"Both are the analysis {new.label}.",
            remedy=OTHERS,
        )
    if old.rule != new.rule:
        raise DataError(
            f"{old.label} was judged by {old.rule}, and {new.label} by {new.rule}.",
            remedy="`minivess analyse` one again with the analysis.metric, evaluation.* and "
            "data.label_map of the other",
        )
    common = [content for content in new.volumes if content in old.volumes]
    if not common:
        raise DataError(
            f"No volume of {old.label} has the bytes of one of {new.label}, in image and label.",
            remedy=OTHERS,
        )
    return common


def _figures(old: Side, new: Side, common: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Paired differences of the champions by metric; p-values are corrected for all of them."""
    pairs = [(old.volumes[content], new.volumes[content]) for content in common]
    scores = []
    for place, side in enumerate((old, new)):
        # The routine pairs by name, and takes whole groups where either analysis has them.
        rows = (
            pair[place].replace(case=str(number), group=pair[1].group or pair[0].group)
            for number, pair in enumerate(pairs)
        )
        scores.append(side.result.winner.replace(name=side.label, volumes=tuple(rows)))
    config = ExperimentConfig(evaluation=new.facts["settings"]["evaluation"])
    found = []
    for metric in new.metrics:
        by = {"analysis": AnalysisConfig.model_construct(metric=metric)}
        found.append(paired.compare(scores[1], scores[0], config.model_copy(update=by)))
    corrected = paired.holm([one.p_value for one in found])
    for metric, one, p_holm in zip(new.metrics, found, corrected, strict=True):
        values = [(before.values[metric], after.values[metric]) for before, after in pairs]
        kept = [(a, b) for a, b in values if a is not None and b is not None]
        means = [sum(column) / len(kept) for column in zip(*kept, strict=True)] or [None, None]
        compared = one.replace(p_holm=p_holm)
        yield {"metric": metric, "old": means[0], "new": means[1], "compared": compared}


def _changes(old: dict[str, Any], new: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for name in keys.differences(old, new):
        part, *rest = name.split(": ")
        before, after = (
            reduce(lambda value, key: value and value.get(key), rest, facts[part])
            for facts in (old, new)
        )
        yield {"part": part, "what": ".".join(rest), "old": before, "new": after}


def _tell(session: Session, found: dict[str, Any]) -> dict[str, Any]:
    """Print what was found, and write its page."""
    shown = found | {"formatting": formatting, "paired": paired, "text": text}
    shown["sentences"] = templates.paragraphs(HERE / "sentences.txt.j2", **shown)
    session.print(templates.render(HERE / "experiments.txt.j2", **shown).rstrip())
    old, new = found["analyses"]
    path = session.home.reports / new / f"compare-{old}.html"
    files.write_text(path, templates.render(HERE / "experiments.html.j2", **shown))
    session.print(f"  page      {path}")
    return {"sentences": shown["sentences"], "page": str(path)}
