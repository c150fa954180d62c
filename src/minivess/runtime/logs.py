"""Log files of a run: opened before any work, stored even if it fails."""

from __future__ import annotations

import logging
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from minivess import names

PERFORMANCE, WARNINGS = "performance.log", "warnings.log"
MAIN = {
    names.PROFILE: "profile.log",
    names.FAMILY: "train.log",
    names.CELL: "train.log",
    **dict.fromkeys((names.REFIT, names.SEARCH, names.TRIAL), "train.log"),
    **dict.fromkeys((names.ANALYSIS, names.ENSEMBLE), "analyse.log"),
    names.DEPLOYMENT: "deploy.log",
}
PERFORMANCE_LOGGER = "minivess.performance"
COURSE = "minivess.course"
"""Logger of what the terminal shows by other means: data, plan, forecast, epochs, resumes."""
OURS = ("minivess", "py.warnings", COURSE)
CATEGORIES = {
    **dict.fromkeys(("minivess.data", "minivess.formats", "minivess.review"), "data"),
    "minivess.tracking": "mlflow_error",
    "mlflow": "mlflow_error",
    "minivess.training": "numerical",
    "minivess.evaluation": "numerical",
    "minivess.losses": "numerical",
}


class _Category(logging.Filter):
    """Gives each record a category, from `extra={"category": ...}` or else its logger."""

    def filter(self, record: logging.LogRecord) -> bool:
        if not hasattr(record, "category"):
            record.category = category(record.name)
        return True


class _File(logging.FileHandler):
    """A log file; lines that find no room on the disk are dropped silently."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Ignore errors of the disk."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)

    def close(self) -> None:
        """Close the file; ignore errors of the disk."""
        with suppress(OSError):
            super().close()


def category(logger: str) -> str:
    """Return the category of a logger: `mlflow_error`, `numerical`, `data` or `other`."""
    for prefix, found in CATEGORIES.items():
        if logger == prefix or logger.startswith(f"{prefix}."):
            return found
    return "other"


class _Before(logging.Handler):
    """Keeps records while no run is open, for the logs of the next run."""

    def __init__(self) -> None:
        super().__init__()
        self.runs = 0
        self.records: deque[logging.LogRecord] = deque(maxlen=1000)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record."""
        if not self.runs:
            self.records.append(record)


before = _Before()
logging.getLogger(COURSE).addHandler(before)
logging.getLogger(COURSE).setLevel(logging.INFO)
logging.getLogger(COURSE).propagate = False


@contextmanager
def opened(folder: Path, kind: str) -> Iterator[Path]:
    """Write the product's log records to three files in `folder` while the block runs."""
    folder.mkdir(parents=True, exist_ok=True)
    attached = [(name, handler) for loggers, handler in _handlers(folder, kind) for name in loggers]
    levels = {name: logging.getLogger(name).level for name in OURS}
    for name, handler in attached:
        logging.getLogger(name).addHandler(handler)
    for name in OURS:
        logger = logging.getLogger(name)
        logger.setLevel(min(logger.getEffectiveLevel(), logging.INFO))
    for record in before.records:
        for name, handler in attached:
            if name == COURSE and record.levelno >= handler.level:
                handler.handle(record)
    before.runs += 1
    try:
        yield folder
    finally:
        before.runs -= 1
        for name, handler in attached:
            logging.getLogger(name).removeHandler(handler)
            handler.close()
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _handlers(folder: Path, kind: str) -> list[tuple[tuple[str, ...], logging.Handler]]:
    plain = "%(asctime)s %(levelname)s %(name)s: %(message)s"
    main = _file(folder / MAIN[kind], logging.INFO, plain)
    performance = _file(folder / PERFORMANCE, logging.INFO, "%(asctime)s %(message)s")
    warnings = _file(
        folder / WARNINGS, logging.WARNING, "%(asctime)s [%(category)s] %(name)s: %(message)s"
    )
    warnings.addFilter(_Category())
    return [(OURS, main), ((PERFORMANCE_LOGGER,), performance), ((*OURS, "mlflow"), warnings)]


def _file(path: Path, level: int, layout: str) -> logging.Handler:
    handler = _File(path, encoding="utf-8")
    handler.setLevel(level)
    handler.setFormatter(logging.Formatter(layout))
    return handler
