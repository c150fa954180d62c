"""The analysis in one call: evaluate out of fold, choose the champion, write the report."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from minivess import files, names
from minivess.analysis import (
    agreement,
    baseline,
    champion,
    ensembling,
    examination,
    formatting,
    greedy,
    leaks,
    paired,
    predictions,
)
from minivess.analysis.report import choice, figures, methods, overlays, report
from minivess.config import ExperimentConfig
from minivess.contracts import (
    AnalysisResult,
    Case,
    DatasetProfile,
    FoldModel,
    Scores,
    VolumeMetrics,
)
from minivess.errors import DataError
from minivess.evaluation import metrics
from minivess.text import several

log = logging.getLogger(__name__)


class Analysis(NamedTuple):
    """Result of an analysis, and its files with their artifact paths."""

    result: AnalysisResult
    files: dict[Path, str]


def analyse(
    models: Sequence[FoldModel],
    cases: Mapping[str, Case],
    profile: DatasetProfile,
    config: ExperimentConfig,
    folder: Path,
    on_volume: Callable[[int, int], None] | None = None,
    *,
    cache: Path | None = None,
    run_id: str | None = None,
    links: Mapping[str, str] | None = None,
) -> Analysis:
    """Evaluate families and ensembles out of fold, choose the champion, write the report.

    A held-out test set is evaluated last and reported separately; no choice depends on it.

    Args:
        folder: where the files are written.
        cache: where evaluated masks are kept between calls; default within `folder`.
        run_id, links: this run and addresses of runs, for the report's lineage.

    Raises:
        DataError: a leak, or nothing to evaluate.
    """
    leaks.check(models, cases)
    test, mixed = held_out(models)
    open_cases = {name: case for name, case in cases.items() if name not in {*test, *mixed}}
    test_cases = {name: case for name, case in cases.items() if name in test}
    how: Any = {
        "config": config,
        "cache": cache or folder / "judged",
        "on_volume": on_volume,
        "contents": {one.case: one.content_hash for one in profile.volumes},
    }
    known = evaluate(models, open_cases, how)
    result, members = conclude(known, models, profile, config, run_id)
    on_test, unjudged = predictions.by_each_fold(
        models, test_cases, **how, combinations=known.combinations
    )
    soups, refused = ensembling.across_folds(models, config)
    if soups:
        options = how | {"combinations": soups, "required": False}
        whole = predictions.out_of_fold(models, test_cases, **options).predictions
        on_test |= {name: [one.metrics for one in of] for name, of in whole.items()}
    first = [one for one in models if one.family == members[0]]
    predictor = predictions.OutOfFoldPredictor.of(models, config, how["cache"], how["contents"])
    measured, faults, short = examination.examine(
        predictor,
        known.combinations[result.champion.family],
        result.winner,
        [cases[one.case] for one in result.winner.volumes],
        folder / names.UNCERTAINTY_MAPS,
    )
    vessels = agreement.measured(
        predictor, known.found.predictions[result.champion.family], open_cases
    )
    result = result.replace(
        measured=vessels,
        agreement=agreement.agree(vessels, config.evaluation),
        uncertainty=measured,
        faults=faults,
        short_faults=short,
        baseline=baseline.judge(first, open_cases, config, how["cache"], how["contents"]),
        test=tuple(_summed(models, on_test, known.combinations | soups, config)),
        notes=(
            *_skipped({**known.found.skipped, **unjudged}),
            *known.uncommon, *_mixed(mixed), *known.refused, *refused,
        ),
    )  # fmt: skip
    log.info("champion: %s", result.champion.reason)
    drawn = draw(result, cases, profile, predictor, known, folder / "figures")
    return Analysis(result, _write(result, profile, config, models, drawn, links or {}, folder))


class Evaluated(NamedTuple):
    """What is known of families and ensembles out of fold, before anything is chosen."""

    combinations: dict[str, ensembling.Ensemble]
    found: predictions.OutOfFold
    judged: list[Scores]
    uncommon: list[str]
    refused: list[str]


def evaluate(models: Sequence[FoldModel], cases: Mapping[str, Case], how: Any) -> Evaluated:
    """Judge families and the ensembles asked for on the volumes that they have in common."""
    config = how["config"]
    combinations, refused = ensembling.plan(models, config)
    how = {**how, "combinations": combinations}
    found = predictions.out_of_fold(models, cases, **how)
    if ensembling.GREEDY in config.analysis.ensembles:
        refused += add_greedy(models, cases, found, how)
    rows, uncommon = on_common_volumes(found.predictions, combinations)
    judged = _summed(models, rows, combinations, config)
    return Evaluated(combinations, found, judged, uncommon, refused)


def conclude(
    known: Evaluated,
    models: Sequence[FoldModel],
    profile: DatasetProfile,
    config: ExperimentConfig,
    run_id: str | None,
) -> tuple[AnalysisResult, Sequence[str]]:
    """Choose the champion and compare; also return the families that the champion consists of."""
    families = [one for one in known.judged if not one.combined]
    parents = {model.family: model.parent_run_id for model in models}
    eligible = champion.eligible(known.judged, config)
    # The run of an ensemble is made after this; its id is filled in there.
    chosen = champion.choose(eligible, config, dict.fromkeys(known.combinations, "") | parents)
    members = next(one.members for one in eligible if one.name == chosen.family)
    result = AnalysisResult(
        run_id=run_id,
        experiment=config.experiment,
        dataset_hash=profile.dataset_hash,
        training_run_ids=tuple(dict.fromkeys(parents.values())),
        families=tuple(families),
        ensembles=tuple(one for one in known.judged if one.combined),
        untrained=untrained([one for one in models if one.family in members]),
        champion=chosen,
        comparisons=paired.every_pair(known.judged, config, models),
        selection=champion.select_again(eligible, config),
        seed_noise=paired.seed_noise(families, models, chosen.metric),
    )
    return result, members


def add_greedy(
    models: Sequence[FoldModel],
    cases: Mapping[str, Case],
    found: predictions.OutOfFold,
    evaluate: dict[str, Any],
) -> list[str]:
    """Add the nested greedy ensemble to predictions and combinations; return a note instead."""
    predictor = predictions.OutOfFoldPredictor.of(
        models, evaluate["config"], evaluate["cache"], evaluate["contents"]
    )
    chosen = greedy.choose(predictor, cases.values())
    if chosen is None:
        return ["greedy was not made: it needs two families, and two folds to choose on."]
    name = ensembling.GREEDY
    more = predictions.out_of_fold(models, cases, **{**evaluate, "combinations": {name: chosen}})
    found.predictions.update(more.predictions)
    evaluate["combinations"][name] = chosen
    return []


def held_out(models: Sequence[FoldModel]) -> tuple[set[str], set[str]]:
    """Return test volumes of every model, and test volumes of only some models."""
    sets = [set(model.spec.test) for model in models]
    common = set.intersection(*sets)
    return common, set.union(*sets) - common


def on_common_volumes(
    found: Mapping[str, Sequence[predictions.Prediction]],
    combinations: ensembling.Combinations,
) -> tuple[dict[str, list[VolumeMetrics]], list[str]]:
    """Restrict scores to the volumes on which every family was evaluated.

    Otherwise a family that lacks the fold with the hardest volumes would look best.

    Raises:
        DataError: families share no volume.
    """
    rows = {name: [one.metrics for one in of] for name, of in found.items()}
    families = {
        name: {row.case for row in rows[name]}
        for name, one in combinations.items()
        if one.families == (name,)
    }
    sets = [cases for cases in families.values() if cases]
    common, all_of_them = set.intersection(*sets), set.union(*sets)
    if not common:
        raise DataError(
            f"{' and '.join(families)} were not judged on any common volume, so they cannot be "
            "compared.",
            remedy="analyse each: `minivess analyse --upstream ID`, or train the missing folds",
        )
    if common == all_of_them:
        return rows, []
    note = (
        f"Families are compared on the {several(len(common), 'volume')} that all of them were "
        f"judged on; {', '.join(sorted(all_of_them - common))} count for none."
    )
    return {name: [row for row in of if row.case in common] for name, of in rows.items()}, [note]


def _summed(
    models: Sequence[FoldModel],
    found: Mapping[str, Sequence[VolumeMetrics]],
    combinations: ensembling.Combinations,
    config: ExperimentConfig,
) -> list[Scores]:
    return [
        ensembling.judged(name, ensemble, found[name], models, config.evaluation)
        for name, ensemble in combinations.items()
        if found[name]
    ]


def untrained(models: Iterable[FoldModel]) -> dict[str, float]:
    """Return metrics of the untrained networks, averaged over the folds' validation volumes."""
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    for model in models:
        n = len(model.spec.fold.val)
        for name, value in model.untrained.items():
            plain = name.removeprefix("val_")
            sums[plain] = sums.get(plain, 0.0) + n * value
            counts[plain] = counts.get(plain, 0) + n
    return {name: sums[name] / counts[name] for name in sums if counts[name]}


def shown(best: Scores, count: int) -> list[tuple[str, str]]:
    """Return the volumes to show as (case, reason): the median by Dice, then the worst."""
    ranked = figures.worst_first(best)
    middle = ranked[len(ranked) // 2]
    worst = ranked[: min(count, len(ranked))]
    named = [(one.case, formatting.nth(rank)) for rank, one in enumerate(worst, start=1)]
    return [(middle.case, f"a typical volume: the middle one of {len(ranked)} by Dice"), *named]


def draw(
    result: AnalysisResult,
    cases: Mapping[str, Case],
    profile: DatasetProfile,
    predictor: predictions.OutOfFoldPredictor,
    known: Evaluated,
    folder: Path,
) -> list[figures.Drawn]:
    """Draw the figures of metrics, then a panel of each volume shown."""
    best = result.winner
    masks = {one.metrics.case: one.mask for one in known.found.predictions[best.name]}
    strips: dict[str, Path] = {}
    drawn = figures.draw(result, folder, formatting.distance_unit(profile))
    for case, why in shown(best, predictor.config.analysis.figures):
        if case not in strips:
            asked = (predictor, known.combinations[best.name], [cases[case]])
            (one,) = examination.predicted(*asked)
            assert result.uncertainty is not None
            strips[case] = overlays.draw(
                one.image[0],
                *metrics.judged(one.truth, predictions.read_mask(masks[case])),
                entropy=examination.entropy(one, result.uncertainty.temperature),
                spacing=one.geometry.spacing,
                unit=one.geometry.unit,
                path=folder / "predictions" / f"{case}.png",
            )
        drawn.append(figures.Drawn(f"panel {case}", strips[case], None, why, case))
    return drawn


def _write(
    result: AnalysisResult,
    profile: DatasetProfile,
    config: ExperimentConfig,
    models: Sequence[FoldModel],
    drawn: Sequence[figures.Drawn],
    links: Mapping[str, str],
    folder: Path,
) -> dict[Path, str]:
    unit = formatting.distance_unit(profile)
    written = report.tables(result, folder / "tables", unit)
    written += [one.path for one in drawn]
    written += sorted((folder / names.UNCERTAINTY_MAPS).glob("*"))
    rows = report.volume_rows(result)
    table = {"columns": list(rows[0]), "data": [list(row.values()) for row in rows]}
    written.append(files.write_json(folder / names.PER_VOLUME_ARTIFACT, table))
    text = report.markdown(result, unit)
    written.append(files.write_text(folder / "report" / "report.md", text))
    text = "\n\n".join(methods.paragraphs(result, profile, config, models)) + "\n"
    written.append(files.write_text(folder / names.METHODS_ARTIFACT, text))
    page = choice.tradeoffs(result, config, models, unit)
    written.append(files.write_text(folder / names.TRADEOFFS_ARTIFACT, page))
    written.append(
        report.render(
            result,
            profile,
            drawn,
            links=links,
            path=folder / names.REPORT_ARTIFACT,
            config=config,
            models=models,
        )
    )
    return {path: path.relative_to(folder).as_posix() for path in written}


def _mixed(mixed: Collection[str]) -> list[str]:
    if not mixed:
        return []
    return [
        f"{', '.join(sorted(mixed))}: test volumes of some of the trainings and not of others, so "
        "they were judged for none."
    ]


def _skipped(skipped: Mapping[str, Sequence[str]]) -> list[str]:
    """A sentence for each volume that some families could not be evaluated on."""
    return [
        f"{case} was not judged by {', '.join(left)}: their networks had all trained on it or on a "
        "copy of it, or the fold that held it out is missing."
        for case, left in sorted(skipped.items())
    ]
