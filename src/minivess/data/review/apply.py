"""What review makes of a dataset: volumes left out, put in, or given other files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minivess.contracts import Case, Finding, Pairing
from minivess.data.checks import finding
from minivess.data.review import review
from minivess.data.review.review import Decision, Role
from minivess.errors import DataError
from minivess.home import Home


@dataclass(frozen=True)
class Reviewed:
    """A pairing after review: what goes on, and the decisions that made it so."""

    pairing: Pairing
    hashes: dict[Path, str]
    accepted: frozenset[str]
    in_force: dict[str, dict[str, Any]]
    history: dict[str, list[dict[str, Any]]]

    @property
    def rejected(self) -> tuple[str, ...]:
        """The volumes left out by somebody."""
        return tuple(c for c, decided in self.in_force.items() if decided["verdict"] == "reject")


def after_review(
    home: Home, dataset: str, pairing: Pairing, hashes: Mapping[Path, str]
) -> Reviewed:
    """Let the decisions about exactly these bytes count.

    Raises:
        DataError: every volume was rejected.
    """
    made = review.decisions(home, dataset)
    kept, known = [], dict(hashes)
    in_force: dict[str, dict[str, Any]] = {}
    told: dict[str, list[dict[str, Any]]] = {}
    for case in pairing.cases:
        mark = (case.case, hashes[case.image], hashes[case.label or case.image])
        decisions = made.get(mark, ())
        verdict, replaced = review.verdict(decisions), review.replaced(decisions)
        if verdict is not None:
            in_force[case.case] = {
                "verdict": verdict,
                **{str(role): decision.file_md5 for role, decision in replaced.items()},
            }
            told[case.case] = history(decisions)
        if verdict != "reject":
            kept.append(_with_files(home, case, replaced, known))
    if pairing.cases and not kept:
        first = pairing.cases[0].case
        raise DataError(
            f"Review rejected all {len(pairing.cases)} volumes of {dataset}.",
            remedy=review.command("reopen", dataset, first, "--why 'why it may go in after all'"),
        )
    accepted = frozenset(c for c, decided in in_force.items() if decided["verdict"] == "accept")
    return Reviewed(pairing.replace(cases=tuple(kept)), known, accepted, in_force, told)


def history(decisions: tuple[Decision, ...]) -> list[dict[str, Any]]:
    """Decisions as plain values: who, when, why, what."""
    return [
        {name: value for name, value in vars(decision).items() if value is not None}
        for decision in decisions
    ]


def rejections(dataset: str, reviewed: Reviewed) -> list[Finding]:
    """A finding for each volume that somebody left out, saying who and why."""
    return [
        finding(
            "rejected",
            f"Left out by {last['who']} on {last['at'][:10]}: {last['why']}",
            case=case,
            remedy=review.command("reopen", dataset, case),
        )
        for case in reviewed.rejected
        for last in [reviewed.history[case][-1]]
    ]


def _with_files(
    home: Home, case: Case, replaced: Mapping[Role, Decision], hashes: dict[Path, str]
) -> Case:
    """The case with the files that stand in for its own, whose hashes are added."""
    files: dict[str, Path] = {}
    for role, decision in replaced.items():
        files[role] = review.files_of(home) / str(decision.file)
        hashes[files[role]] = str(decision.file_md5)
    return case.replace(**files) if files else case
