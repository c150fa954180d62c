"""The checks of a dataset and findings made by them; checks.toml holds their texts."""

from __future__ import annotations

import tomllib
from pathlib import Path

from minivess.contracts import Contract, Finding, Severity


class Check(Contract):
    """What a code stands for.

    The severities after the first are those of the same finding about the whole set;
    `at_prediction` is the remedy where a volume is only segmented. No decision of a reviewer makes
    a volume with a `final` error usable; another file does.
    """

    meaning: str
    remedy: str
    severities: tuple[Severity, ...] = ("warning",)
    at_prediction: str | None = None
    final: bool = False


CHECKS = {
    code: Check(**texts)
    for code, texts in tomllib.loads(
        Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")
    ).items()
}


def is_final(found: Finding) -> bool:
    """Whether a finding is an error that no decision of a reviewer makes usable."""
    return found.severity == "error" and CHECKS[found.code].final


def finding(
    code: str,
    message: str,
    *,
    case: str | None = None,
    severity: Severity | None = None,
    remedy: str | None = None,
) -> Finding:
    """Make a finding about a volume or, without `case`, about none yet.

    Severity and remedy are those of the check unless they are given.
    """
    check = CHECKS[code]
    return Finding(
        code=code,
        severity=severity or check.severities[0],
        case=case,
        message=message,
        remedy=remedy or check.remedy,
    )


def table() -> str:
    """The checks as the table of docs/checks.md."""
    rows = "".join(
        f"| `{code}` | {', '.join(check.severities)} | {check.meaning} | {check.remedy} |\n"
        for code, check in CHECKS.items()
    )
    return f"| code | severity | what | remedy |\n|---|---|---|---|\n{rows}"
