"""Environment variables; the only module that reads or changes them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from minivess.errors import UsageError


@dataclass(frozen=True)
class Environment:
    """The environment variables that mean something here, read once."""

    home: Path = Path("outputs")
    mlflow_tracking_uri: str | None = None
    prefect_api_url: str | None = None
    prefect_home: Path | None = None
    prefect_disabled: bool = False
    server_idle_s: int = 600
    """Seconds for which a private Prefect server stays without a command that uses it."""
    when_done: str | None = None
    """Command of a shell that runs when a command of ten minutes or more has ended."""
    ci: bool = False
    kubernetes: bool = False
    desktop: bool = False
    """Whether pages can be opened in a browser."""
    cuda_visible_devices: str | None = None
    omp_num_threads: int | None = None
    launched_by: str = "cli"
    requests: Path | None = None
    """Where a service stores the features of its requests."""
    jobs: Path | None = None
    """Where a service keeps its jobs."""
    token: str | None = None
    token_file: Path | None = None
    """Who may ask a service, or how a client shows that it may."""
    requests_per_minute: int = 60
    """Of one token; 0: any number."""
    git_commit: str | None = None
    """What an image was built from; `-dirty` follows where files were changed."""


def environment(variables: Mapping[str, str] | None = None) -> Environment:
    """Read the environment; empty values count as absent."""
    given = {
        key: value
        for key, value in (os.environ if variables is None else variables).items()
        if value
    }
    return Environment(
        home=Path(given.get("MINIVESS_HOME", "outputs")),
        mlflow_tracking_uri=given.get("MLFLOW_TRACKING_URI"),
        prefect_api_url=given.get("PREFECT_API_URL"),
        prefect_home=Path(given["PREFECT_HOME"]) if "PREFECT_HOME" in given else None,
        prefect_disabled=given.get("PREFECT_DISABLED", "").lower() in {"1", "true", "yes"},
        server_idle_s=_whole(given, "MINIVESS_SERVER_IDLE_S", 600),
        when_done=given.get("MINIVESS_WHEN_DONE"),
        ci="CI" in given,
        desktop="DISPLAY" in given or "WAYLAND_DISPLAY" in given or sys.platform == "darwin",
        kubernetes="KUBERNETES_SERVICE_HOST" in given,
        # Empty means "no GPU", so it counts although it is empty.
        cuda_visible_devices=(variables or os.environ).get("CUDA_VISIBLE_DEVICES"),
        omp_num_threads=_threads(given.get("OMP_NUM_THREADS")),
        launched_by=given.get("MINIVESS_LAUNCHED_BY", "cli"),
        requests=Path(given["MINIVESS_REQUESTS"]) if "MINIVESS_REQUESTS" in given else None,
        jobs=Path(given["MINIVESS_JOBS"]) if "MINIVESS_JOBS" in given else None,
        token=given.get("MINIVESS_TOKEN"),
        token_file=Path(given["MINIVESS_TOKEN_FILE"]) if "MINIVESS_TOKEN_FILE" in given else None,
        requests_per_minute=_whole(given, "MINIVESS_REQUESTS_PER_MINUTE", 60),
        git_commit=given.get("MINIVESS_GIT_COMMIT"),
    )


def _whole(given: Mapping[str, str], name: str, default: int) -> int:
    stated = given.get(name, str(default))
    if not stated.isdecimal():
        raise UsageError(f"{name}={stated} is no whole number.", remedy=f"unset {name}")
    return int(stated)


def _threads(stated: str | None) -> int | None:
    """The outermost level of OMP_NUM_THREADS, which may be a list.

    Raises:
        UsageError: it is no number of threads.
    """
    if stated is None:
        return None
    number = stated.split(",")[0].strip()
    if not number.isdecimal() or int(number) == 0:
        raise UsageError(
            f"OMP_NUM_THREADS={stated} is no number of threads.",
            remedy="unset OMP_NUM_THREADS, or set it to a whole number such as 4",
        )
    return int(number)


def caller() -> str:
    """The program that the user typed: `just`, whose justfile says so, or `minivess`."""
    return os.environ.get("MINIVESS_CALLER") or "minivess"


QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DVC_NO_ANALYTICS": "1",
    "BENTOML_DO_NOT_TRACK": "True",
    "SCARF_NO_ANALYTICS": "true",
}


OWN = ("PREFECT_HOME", "PREFECT_API_URL", "PREFECT_DISABLED", *QUIET)


def foreign() -> list[str]:
    """Settings of Prefect in the environment, which are meant for other servers than our own."""
    return sorted(one for one in os.environ if one.startswith("PREFECT_") and one not in OWN)


def talkative() -> list[str]:
    """Variables by which a library would send usage data after all."""
    return sorted(name for name, value in QUIET.items() if os.environ.get(name, value) != value)


def calm_libraries() -> None:
    """Disable usage data, and let threads that wait sleep; runs before libraries are imported.

    On a busy machine spinning threads take the processor from those that they wait for.
    """
    os.environ.update(QUIET)
    default_environment(OMP_WAIT_POLICY="PASSIVE")


def child_environment(without: Iterable[str] = (), **changes: str) -> dict[str, str]:
    """The environment for a process that we start: ours, silent, with changes."""
    kept = {name: value for name, value in os.environ.items() if name not in without}
    return {**kept, **QUIET, **changes}


def set_environment(**changes: str) -> None:
    """Set standard variables that a library reads only from its environment."""
    os.environ.update(changes)


def default_environment(**values: str) -> None:
    """Set standard variables of a library unless the user has set them."""
    for name, value in values.items():
        os.environ.setdefault(name, value)


@contextmanager
def changed_environment(**changes: str | None) -> Iterator[None]:
    """Set (or by None remove) variables that a library reads only from its environment.

    The old ones are put back.
    """
    before = {name: os.environ.get(name) for name in changes}
    _set(changes)
    try:
        yield
    finally:
        _set(before)


def _set(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def local_without_proxy() -> dict[str, str]:
    """NO_PROXY with this machine in it: calls to our own servers stay here."""
    given = os.environ.get("NO_PROXY") or os.environ.get("no_proxy") or ""
    hosts = [host.strip() for host in given.split(",") if host.strip()]
    joined = ",".join(dict.fromkeys([*hosts, "127.0.0.1", "localhost"]))
    return {"NO_PROXY": joined, "no_proxy": joined}
