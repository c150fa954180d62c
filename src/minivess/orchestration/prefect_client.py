"""Prefect's client in this process: connect it to a server, limit its log lines, drain it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from minivess.config import (
    Environment,
    changed_environment,
    foreign,
    local_without_proxy,
)
from minivess.home import Home
from minivess.orchestration import prefect_server
from minivess.runtime import logs, output
from minivess.runtime.entry import is_shown

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

log = logging.getLogger(__name__)

DRAIN_LIMIT_S = 10.0
# A private server that does not answer has died, so longer retries would not help.
PRIVATE_RETRIES = "4"


@contextmanager
def client(home: Home, env: Environment) -> Iterator[str]:
    """Point Prefect in this process at the server of this home; gives the API address."""
    with ExitStack() as stack:
        api = stack.enter_context(prefect_server.connect(home, env))
        stack.enter_context(changed_environment(**_variables(home, env, api)))
        _refresh_settings()
        stack.enter_context(_quiet_logs())
        stack.callback(_drain)
        log.info("Prefect's page: %s", api.removesuffix("/api"))
        yield api


def asking() -> SyncPrefectClient:
    """Prefect's client for questions to the server, a context manager."""
    from prefect.client.orchestration import get_client

    return get_client(sync_client=True)


def _variables(home: Home, env: Environment, api: str) -> dict[str, str | None]:
    private: dict[str, str | None] = {}
    if not env.prefect_api_url:
        private = dict.fromkeys(foreign()) | prefect_server.without_profiles(home)
        private["PREFECT_CLIENT_MAX_RETRIES"] = PRIVATE_RETRIES
    return {
        **local_without_proxy(),
        **private,
        "PREFECT_HOME": str(prefect_server.folder_of(home, env)),
        "PREFECT_API_URL": api,
        # No process may start a server of its own.
        "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    }


def outlive_worker() -> None:
    """Drop Prefect's log lines to a worker that has died; by default Prefect would exit."""
    from prefect.logging.handlers import PrefectConsoleHandler

    loggers = [logging.getLogger(), *map(logging.getLogger, logging.root.manager.loggerDict)]
    for handler in (handler for logger in loggers for handler in logger.handlers):
        if isinstance(handler, PrefectConsoleHandler):
            handler.console.on_broken_pipe = output.discard  # type: ignore[method-assign]


def failures() -> tuple[type[Exception], ...]:
    """Exceptions of Prefect's client when its server is gone or refuses."""
    import httpx
    from prefect.exceptions import PrefectException

    return (httpx.HTTPError, PrefectException, OSError, RuntimeError)


def _refresh_settings() -> None:
    """Prefect reads its environment at import; let it read again, in every thread."""
    import prefect.main  # noqa: F401 (sets up logging, which `_quiet_logs` then changes)
    from prefect.context import refresh_global_settings_context

    refresh_global_settings_context()


def _drain() -> None:
    """Send what Prefect's queues hold before the server ends, so that nothing is retried."""
    from prefect.events.worker import EventsWorker

    # All queues share one registry, so that this drains log lines as well.
    EventsWorker.drain_all(timeout=DRAIN_LIMIT_S, at_exit=False)


@contextmanager
def _quiet_logs() -> Iterator[None]:
    """Warnings of Prefect on standard error.

    A user who wants all log lines (--debug) keeps Prefect's as well.
    """
    from prefect.logging.handlers import PrefectConsoleHandler

    root, prefect, internal = map(logging.getLogger, ("", "prefect", "prefect._internal"))
    with logs_on_page(), ExitStack() as stack:
        if not root.isEnabledFor(logging.INFO):
            for handler in [h for h in root.handlers if isinstance(h, PrefectConsoleHandler)]:
                root.removeHandler(handler)
            shown = logging.StreamHandler()
            shown.setLevel(logging.WARNING)
            shown.setFormatter(logging.Formatter("  Prefect: %(message)s"))
            shown.addFilter(Deduplicated())
            for logger in (prefect, internal):
                stack.enter_context(_only(logger, shown))
        yield


@contextmanager
def logs_on_page() -> Iterator[None]:
    """Show what the terminal shows, and warnings, on the page of the flow run."""
    from prefect.context import FlowRunContext
    from prefect.logging.handlers import APILogHandler

    page = APILogHandler()
    page.addFilter(lambda record: FlowRunContext.get() is not None and is_shown(record))
    with ExitStack() as stack:
        for logger in map(logging.getLogger, ("minivess", logs.COURSE)):
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(min(logger.getEffectiveLevel(), logging.INFO))
            logger.addHandler(page)
            stack.callback(logger.removeHandler, page)
        yield


class Deduplicated(logging.Filter):
    """Each warning once; the command itself prints the failure of a stage."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to show a line."""
        known = str(record.msg) in self.seen
        self.seen.add(str(record.msg))
        return not known and not record.name.startswith(("prefect.flow_runs", "prefect.task_runs"))


@contextmanager
def _only(logger: logging.Logger, handler: logging.Handler) -> Iterator[None]:
    before = logger.handlers[:], logger.propagate
    logger.handlers, logger.propagate = [handler], False
    try:
        yield
    finally:
        logger.handlers, logger.propagate = before
