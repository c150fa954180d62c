"""Reaching an MLflow store: its address, a quick probe, and its errors in our words."""

from __future__ import annotations

import logging
import re
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from minivess import config, home
from minivess.errors import StoreError
from minivess.home import Home

if TYPE_CHECKING:
    from mlflow import MlflowClient

PROBE_S = 5.0
DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
CHECK_ADDRESS = (
    "check the address in MLFLOW_TRACKING_URI (or tracking.uri) and that the server there runs; "
    "without either, runs are kept in a SQLite file in the output folder"
)
log = logging.getLogger(__name__)


def address(place: Home, settings: config.TrackingConfig) -> str:
    """Where runs are kept: the given store, else SQLite in the home folder."""
    return settings.uri or f"sqlite:///{place.database}"


def connect(place: Home, uri: str) -> MlflowClient:
    """A client for exactly this store; nothing global in MLflow is changed.

    Raises:
        StoreError: no such kind of store, or it does not answer within five seconds.
    """
    refuse_folders(uri)
    probe(uri)
    preload()
    from mlflow import MlflowClient

    with door(f"open the MLflow store at {shown(uri)}"):
        if not uri.startswith("sqlite:"):
            return _answering(MlflowClient(tracking_uri=uri, registry_uri=uri))
        # Two processes that create one fresh SQLite store break each other's migration.
        with home.lock(place.root / "mlflow.lock", what="opening MLflow's database", wait=True):
            return _answering(MlflowClient(tracking_uri=uri, registry_uri=uri))


def preload() -> None:
    """Import MLflow, silent and with short patience; takes about a second the first time."""
    config.silence_telemetry()
    # MLflow's own seven retries keep a command hanging for minutes after a server has died.
    config.default_environment(
        MLFLOW_HTTP_REQUEST_MAX_RETRIES="3", MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR="false"
    )
    # MLflow configures its loggers when it is imported, so ours come after.
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401

    for chatty in ("mlflow.store.db.utils", "alembic", "mlflow.tracking._tracking_service.client"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def _answering(client: MlflowClient) -> MlflowClient:
    client.search_experiments(max_results=1)
    return client


def refuse_folders(uri: str) -> None:
    """Folder stores are what MLflow itself no longer opens.

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


def probe(uri: str) -> None:
    """Ask a server whether it is there, within five seconds.

    Raises:
        StoreError: it does not answer, or wants credentials.
    """
    parts = urlsplit(uri)
    scheme = parts.scheme.split("+")[0]
    try:
        if scheme in {"http", "https"}:
            _ask(uri)
        elif parts.hostname and scheme in DATABASE_PORTS:
            where = (parts.hostname, parts.port or DATABASE_PORTS[scheme])
            socket.create_connection(where, timeout=PROBE_S).close()
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise StoreError(
            f"The MLflow store at {shown(uri)} does not answer ({reason}).", remedy=CHECK_ADDRESS
        ) from error


def _ask(uri: str) -> None:
    request = urllib.request.Request(f"{uri.rstrip('/')}/health")
    try:
        urllib.request.urlopen(request, timeout=PROBE_S).close()
    except urllib.error.HTTPError as answer:
        # Whatever answers is there; the first real call shows whether it is MLflow and lets us in.
        log.debug("%s answers %s to a health check", shown(uri), answer.code)


@contextmanager
def door(what: str) -> Iterator[None]:
    """Say MLflow's errors in our words.

    Raises:
        StoreError: MLflow, its database or its artifact store refused to do `what`.
    """
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        raise StoreError(
            f"Could not {what}: {_first_line(error)}", remedy=_remedy(error)
        ) from error
    except OSError as error:
        raise StoreError(
            f"Could not {what}: {error.strerror or error}.",
            remedy="check free disk space and the permissions of the artifact folder",
        ) from error


def _first_line(error: Exception) -> str:
    text = re.sub(r"(://[^:/@\s]+):[^@\s]+@", r"\1:***@", str(error))
    return text.strip().split("\n", 1)[0][:400]


def _remedy(error: Exception) -> str:
    text = str(error)
    if "out-of-date database schema" in text:
        return "back the database up, then run `mlflow db upgrade` on its address"
    if any(code in text for code in ("401", "403", "Unauthorized", "PERMISSION_DENIED")):
        return (
            "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (or MLFLOW_TRACKING_TOKEN)"
        )
    return CHECK_ADDRESS


def shown(uri: str) -> str:
    """An address without its password."""
    parts = urlsplit(uri)
    if not parts.password:
        return uri
    return urlunsplit(parts._replace(netloc=parts.netloc.replace(f":{parts.password}@", ":***@")))
