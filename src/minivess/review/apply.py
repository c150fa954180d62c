"""Apply review decisions to a pairing: volumes left out, let in, or given other files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minivess.contracts import Finding, Pairing
from minivess.data.checks import finding
from minivess.errors import DataError
from minivess.home import Home
from minivess.review import queue
from minivess.text import several


@dataclass(frozen=True)
class Reviewed:
    """A pairing after review, and the decisions that made it.

    `in_force` and `history` are plain values by volume: the verdict with the md5 of files that
    replace the originals, and all decisions with who, when and why.
    """

    pairing: Pairing
    hashes: dict[Path, str]
    in_force: dict[str, dict[str, Any]]
    history: dict[str, list[dict[str, Any]]]

    @property
    def accepted(self) -> frozenset[str]:
        """The volumes that are let in despite their errors."""
        return frozenset(self._with("accept"))

    @property
    def rejected(self) -> tuple[str, ...]:
        """The volumes that are left out."""
        return self._with("reject")

    def _with(self, verdict: str) -> tuple[str, ...]:
        return tuple(c for c, decided in self.in_force.items() if decided["verdict"] == verdict)


def after_review(
    home: Home, dataset: str, pairing: Pairing, hashes: Mapping[Path, str]
) -> Reviewed:
    """Apply the decisions about exactly these bytes to a pairing.

    Raises:
        DataError: every volume was rejected.
    """
    made = queue.decisions(home, dataset)
    kept, known = [], dict(hashes)
    in_force: dict[str, dict[str, Any]] = {}
    history: dict[str, list[dict[str, Any]]] = {}
    for case in pairing.cases:
        mark = (case.case, hashes[case.image], hashes[case.label or case.image])
        decisions = made.get(mark, ())
        verdict, replaced = queue.verdict(decisions), queue.replaced(decisions)
        if verdict is not None:
            md5s = {str(role): decision.file_md5 for role, decision in replaced.items()}
            in_force[case.case] = {"verdict": verdict, **md5s}
            history[case.case] = [one.model_dump(exclude_none=True) for one in decisions]
        if verdict != "reject":
            files = {
                role: queue.replacements_folder(home) / str(one.file)
                for role, one in replaced.items()
            }
            known.update((files[role], str(one.file_md5)) for role, one in replaced.items())
            kept.append(case.replace(**files) if files else case)
    if pairing.cases and not kept:
        first = pairing.cases[0].case
        raise DataError(
            f"Review rejected all of {several(len(pairing.cases), 'volume')} of {dataset}.",
            remedy=queue.command("reopen", dataset, first, "--why 'why it may go in after all'"),
        )
    return Reviewed(pairing.replace(cases=tuple(kept)), known, in_force, history)


def rejections(dataset: str, reviewed: Reviewed) -> list[Finding]:
    """Return a finding for each rejected volume, saying who rejected it and why."""
    return [
        finding(
            "rejected",
            f"Left out by {last['who']} on {last['at'][:10]}: {last['why']}",
            case=case,
            remedy=queue.command("reopen", dataset, case),
        )
        for case in reviewed.rejected
        for last in [reviewed.history[case][-1]]
    ]
