"""The expected failures, each ending with its remedy.

MinivessError                exit 1
├── UsageError               exit 2: an unknown verb or key, a refused value, a contradiction
├── DataError                files that cannot be paired, read or used
│   └── RemoteError          the remote of the data does not answer or refuses; worth a retry
├── PlanError                what was asked for does not fit the machine, the data or the network
├── TrainingError            a cell that cannot go on
│   └── OutOfMemory          what is run takes more memory than there is
├── StoreError               MLflow refuses, or does not hold what was asked for
│   └── StoreUnreachable     MLflow does not answer for now; what is written waits in the journal
├── DiskFull                 a disk or quota has no room left
├── OrchestrationError       Prefect, locks, ports
│   └── PrefectUnreachable          Prefect's server does not answer any more
└── ServingError             export, parity or smoke test failed
"""

from __future__ import annotations

import difflib
import errno
import os
import tomllib
from collections.abc import Iterable
from functools import cache
from pathlib import Path


class MinivessError(Exception):
    """An expected failure: what happened, with which value, and what to do about it."""

    exit_code = 1

    def __init__(self, problem: str, *, remedy: str) -> None:
        super().__init__(f"{problem}\n  Try: {remedy}")
        self.problem = problem
        self.remedy = remedy

    def __reduce__(self) -> tuple[object, tuple[type, str, str]]:
        """Survive pickling between processes, remedy included."""
        return _rebuild, (type(self), self.problem, self.remedy)


def _rebuild(kind: type[MinivessError], problem: str, remedy: str) -> MinivessError:
    return kind(problem, remedy=remedy)


class UsageError(MinivessError):
    """The command line or a configuration file asks for something that does not exist."""

    exit_code = 2


class DataError(MinivessError):
    """Files that cannot be paired, read or used; `code` is that of the check (docs/checks.md)."""

    code = "unreadable"

    def __init__(self, problem: str, *, remedy: str, code: str | None = None) -> None:
        super().__init__(problem, remedy=remedy)
        self.code = code or self.code


class RemoteError(DataError):
    """The remote of the data does not answer, or refuses."""

    code = "RemoteError"


class PlanError(MinivessError):
    """What was asked for does not fit the machine, the data or the network."""


class TrainingError(MinivessError):
    """A cell of the grid cannot go on."""


class OutOfMemory(TrainingError):  # noqa: N818 (its name is the tag error_type of spec 4.7)
    """What is run takes more memory than there is; MLflow shows this name as `error_type`."""


class StoreError(MinivessError):
    """MLflow refuses, or does not hold what was asked for."""

    code: str = ""
    """MLflow's own code of the error, if it raised one."""


class DeletedRunError(StoreError):
    """A run that MLflow still keeps, but as deleted."""


class StoreUnreachable(StoreError):  # noqa: N818 (it says where the store is, not that we erred)
    """MLflow, its database or its artifact store does not answer for now."""


class DiskFull(MinivessError, OSError):  # noqa: N818 (MLflow shows this name as `error_type`)
    """A disk or quota has no room left; an OSError for whatever writes a file."""

    errno = errno.ENOSPC
    strerror = os.strerror(errno)


class OrchestrationError(MinivessError):
    """Prefect, a lock or a port stands in the way."""


class PrefectUnreachable(OrchestrationError):  # noqa: N818 (it says where the server is)
    """Prefect's server does not answer any more; what was done stays done."""


class ServingError(MinivessError):
    """An exported model failed its parity or smoke test, or the service did not start."""


def nearest(typed: str, known: Iterable[str]) -> str | None:
    """The name that was probably meant; none where no name is near."""
    return next(iter(difflib.get_close_matches(typed, list(known), n=1)), None)


@cache
def texts() -> dict[str, dict[str, str]]:
    """Code of an error -> `meaning` and `remedy`, for errors and codes of MLflow's."""
    return tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
