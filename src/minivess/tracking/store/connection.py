"""Connect to an MLflow store: address, probe, translation of errors."""

from __future__ import annotations

import logging
import re
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

from minivess import config, home
from minivess.errors import StoreError, StoreUnreachable
from minivess.home import Home

if TYPE_CHECKING:
    from mlflow import MlflowClient

PROBE_S = 5.0
TIME_LIMITS = {"postgresql": "connect_timeout", "mysql": "connect_timeout", "mssql": "timeout"}
DRIVERS = {
    "psycopg": "'psycopg[binary]'",
    "psycopg2": "psycopg2-binary",
    "MySQLdb": "mysqlclient",
}
CHATTY = (
    "alembic",
    "mlflow.pyfunc",
    "mlflow.tracking._tracking_service.client",
)
CHECK_ADDRESS = (
    "check the address in MLFLOW_TRACKING_URI (or tracking.uri) and that the server there runs; "
    "without either, runs are kept in a SQLite file in the output folder"
)
# Error codes of requests that will fail again; other errors may be temporary.
ANSWERS = (
    "INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS",
    "INVALID_STATE", "ENDPOINT_NOT_FOUND", "NOT_FOUND", "BAD_REQUEST", "NOT_IMPLEMENTED",
    "PERMISSION_DENIED", "UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED",
)  # fmt: skip
ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
EXISTS = "RESOURCE_ALREADY_EXISTS"
PAGE = 500
ADVISORY_LOCK = 7_305_811
T = TypeVar("T")
log = logging.getLogger(__name__)


def store_address(place: Home, settings: config.TrackingConfig) -> str:
    """Return the URI of the store: the configured one, else SQLite in the home folder."""
    return settings.uri or f"sqlite:///{place.database}"


def connect_client(place: Home, uri: str) -> MlflowClient:
    """Return a client for this store; no global setting of MLflow is changed.

    Raises:
        StoreError: no such kind of store, or it does not answer within five seconds.
    """
    refuse_folders(uri)
    preload()
    probe_store(uri)
    from mlflow import MlflowClient

    with translate_errors(f"open the MLflow store at {redact(uri)}"), _alone(place, uri):
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        client.search_experiments(max_results=1)
        return client


def _make_whole(database: Path) -> None:
    """Make an absent database under another name: MLflow makes it in many steps, each committed."""
    from mlflow import MlflowClient

    if database.exists() and database.stat().st_size:
        return
    made = database.with_name(f"{database.name}.making")
    made.unlink(missing_ok=True)
    MlflowClient(tracking_uri=f"sqlite:///{made}").search_experiments(max_results=1)
    made.replace(database)


def database_file(uri: str) -> Path:
    """Return the file of a SQLite store."""
    return Path(uri.removeprefix("sqlite:///").partition("?")[0])


@contextmanager
def _alone(place: Home, uri: str) -> Iterator[None]:
    """Lock out other processes: two that create one database break each other's migration.

    A SQLite database that is absent is made first.
    """
    if uri.startswith("sqlite:") and place.writable:
        with home.lock(place.root / "mlflow.lock", what="opening MLflow's database", wait=True):
            _make_whole(database_file(uri))
            yield
    elif uri.startswith("postgresql"):
        import sqlalchemy as sa

        with sa.create_engine(uri, poolclass=sa.NullPool).connect() as connection:
            connection.execute(sa.text(f"select pg_advisory_lock({ADVISORY_LOCK})"))
            yield
    else:
        yield


def preload() -> None:
    """Import MLflow with few retries and little output; takes about a second."""
    config.calm_libraries()
    # MLflow's own seven retries keep a command hanging for minutes after a server has died.
    config.default_environment(
        MLFLOW_HTTP_REQUEST_MAX_RETRIES="3",
        MLFLOW_HTTP_REQUEST_TIMEOUT="30",
        MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR="false",
        MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT="true",
    )
    # MLflow configures its loggers when it is imported, so ours come after.
    import mlflow  # noqa: F401

    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    # We report a locked database in one line, MLflow with a traceback; a server that does not
    # answer is reported once, not at each retry.
    for name in ("mlflow.store.db.utils", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def refuse_folders(uri: str) -> None:
    """Reject folder stores, which MLflow no longer supports.

    Raises:
        StoreError: the address is a folder.
    """
    if "://" not in uri and not uri.startswith(("sqlite:", "databricks")):
        raise StoreError(
            f"The MLflow store {uri!r} is a folder, which MLflow no longer supports.",
            remedy=f"use MLFLOW_TRACKING_URI=sqlite:///{uri.rstrip('/')}.db "
            "(`mlflow migrate-filestore` carries old runs over), or leave it unset",
        )
    if uri.startswith("file:"):
        refuse_folders(urlsplit(uri).path)


def probe_store(uri: str) -> None:
    """Require that a store answers and lets us in within five seconds.

    Raises:
        StoreUnreachable: it does not answer.
        StoreError: the address is malformed, or its file is no database.
    """
    scheme = urlsplit(uri).scheme.partition("+")[0]
    try:
        if scheme in {"http", "https"}:
            _ask_server(uri)
        elif scheme == "sqlite":
            _ask_file(database_file(uri))
        elif scheme in TIME_LIMITS:
            _ask_database(uri, {TIME_LIMITS[scheme]: int(PROBE_S)})
    except (OSError, ValueError, HTTPException, sqlite3.Error) as error:
        reason = getattr(error, "reason", None) or error
        # A malformed address and a file that is no database are permanent; the rest may recover.
        lasting = isinstance(error, ValueError) or type(error) is sqlite3.DatabaseError
        raise (StoreError if lasting else StoreUnreachable)(
            f"The MLflow store at {redact(uri)} does not answer ({reason}).", remedy=CHECK_ADDRESS
        ) from error


def _ask_server(uri: str) -> None:
    parts = urlsplit(uri)
    if parts.hostname in {"127.0.0.1", "localhost", "::1"}:
        config.set_environment(**config.local_without_proxy())
    # MLflow sends the credentials of an address by itself; a health check needs none.
    place = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    try:
        urllib.request.urlopen(f"{place.rstrip('/')}/health", timeout=PROBE_S).close()
    except urllib.error.HTTPError as answer:
        # Something answers; the first real call shows whether it is MLflow and lets us in.
        log.debug("%s answers %s to a health check", redact(uri), answer.code)


def _ask_file(path: Path) -> None:
    """Open the database first: MLflow itself would retry for almost an hour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path, timeout=PROBE_S)) as connection:
        connection.execute("SELECT count(*) FROM sqlite_master")


def _ask_database(uri: str, limit: dict[str, int]) -> None:
    """Connect once: MLflow itself would retry for almost an hour."""
    import sqlalchemy as sa

    try:
        engine = sa.create_engine(uri, poolclass=sa.NullPool, connect_args=limit)
        engine.connect().close()
    except ModuleNotFoundError as error:
        raise StoreError(
            f"The MLflow store at {redact(uri)} needs the Python package {error.name!r}.",
            remedy=f"pip install {DRIVERS.get(str(error.name), error.name)}",
        ) from error
    except sa.exc.SQLAlchemyError as error:
        raise OSError(_first_line(error)) from error


@contextmanager
def translate_errors(what: str) -> Iterator[None]:
    """Translate MLflow's errors.

    Args:
        what: what the block does, as in "could not ...".

    Raises:
        StoreError: MLflow rejected the request.
        StoreUnreachable: MLflow, its database or its artifact store does not answer.
    """
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        kind = StoreError if error.error_code in ANSWERS else StoreUnreachable
        raised = kind(f"Could not {what}: {_first_line(error)}", remedy=_remedy(error))
        raised.code = error.error_code
        raise raised from error
    except OSError as error:
        raise StoreUnreachable(
            f"Could not {what}: {error.strerror or error}.",
            remedy="check free disk space and the permissions of the artifact folder",
        ) from error


def all_pages(search: Callable[..., Iterable[T]], **arguments: Any) -> Iterator[T]:
    """Yield every result of a search of MLflow's client, page after page."""
    token: str | None = None
    while True:
        page: Any = search(**{"max_results": PAGE} | arguments, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _first_line(error: Exception) -> str:
    text = re.sub(r"(://[^:/@\s]+):[^@\s]+@", r"\1:***@", str(error))
    lines = text.strip().split("\n")
    # SQLAlchemy begins with a note on when a statement was sent; the cause comes after it.
    return next((line for line in lines if not line.startswith("(raised as")), lines[0])[:400]


def _remedy(error: Exception) -> str:
    text = str(error)
    if "out-of-date database schema" in text:
        return "back the database up, then run `mlflow db upgrade` on its address"
    if any(code in text for code in ("401", "403", "Unauthorized", "PERMISSION_DENIED")):
        return (
            "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (or MLFLOW_TRACKING_TOKEN)"
        )
    return CHECK_ADDRESS


def redact(uri: str) -> str:
    """Return the URI without its password."""
    parts = urlsplit(uri)
    if not parts.password:
        return uri
    return urlunsplit(parts._replace(netloc=parts.netloc.replace(f":{parts.password}@", ":***@")))
