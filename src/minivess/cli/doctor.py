"""`minivess doctor`: a line for each check, and what helps where something is wrong."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from minivess import config as configs
from minivess.cli import maintenance
from minivess.config import ExperimentConfig
from minivess.orchestration.session import open_session
from minivess.runtime.output import print_for
from minivess.stages.doctor.examine import Result, examine
from minivess.stages.doctor.surroundings import Surroundings
from minivess.text import several

Outcome = dict[str, Any]


def run(config: ExperimentConfig, options: argparse.Namespace) -> Outcome:
    """Print what each check found; with --fix first do what is safe. Exit code 1 if any fails."""
    around = Surroundings(configs.environment(), config)
    tried: list[str] = []
    if options.fix:
        tried = [one.code for one in examine(around) if _can_be_settled(one)]
        _settle(around, tried)
        around = Surroundings(around.env, config)
    found: list[Result] = []
    for result in examine(around):
        found.append(result)
        print_for(options, f"  {result.state:<8} {result.code:<17} {result.found}")
        if result.state in ("warning", "error"):
            print_for(options, f"           {result.why}\n           Try: {result.remedy}")
    number = {state: sum(one.state == state for one in found) for state in ("error", "warning")}
    fixed = [one.code for one in found if one.code in tried and one.state == "ok"]
    for code in fixed:
        print_for(options, f"  settled  {code}")
    if not options.fix and any(map(_can_be_settled, found)):
        print_for(options, "  what is safe is settled by: minivess doctor --fix")
    print_for(
        options,
        f"  {several(len(found), 'check')}: {several(number['error'], 'error')}, "
        f"{several(number['warning'], 'warning')}",
    )
    checks = [one._asdict() for one in found]
    return {"checks": checks, "fixed": fixed, **number, "exit_code": 1 if number["error"] else 0}


def _can_be_settled(result: Result) -> bool:
    return result.settles and result.state in ("warning", "error")


def _settle(around: Surroundings, codes: Sequence[str]) -> None:
    """Settle the store where a check says that this helps; no result is changed by it."""
    if codes:
        with open_session(around.config, around.env, what="minivess doctor", json=True) as session:
            maintenance.settle(session, ())
