"""How to start MLflow's page."""

from __future__ import annotations

from minivess.config import TrackingConfig
from minivess.home import Home
from minivess.runtime.servers import HOST, Launch
from minivess.tracking.store.store import open_store

MLFLOW_PORT = 5000
MLFLOW = "mlflow-server.json"


def mlflow_page(home: Home, tracking: TrackingConfig, port: int) -> Launch:
    """How to start MLflow's server on the store of this home."""
    words = ("mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1")
    # Opening the store creates its database, which two processes must not do at once.
    uri = open_store(home, tracking).uri
    artifacts = tracking.artifact_root or home.artifacts.as_uri()
    return Launch(
        name="MLflow's server",
        words=(*words, "--backend-store-uri", uri, "--default-artifact-root", artifacts),
        port=port,
        health="/health",
        # The job runner is for GenAI evaluation; it would keep its own database of jobs.
        variables={"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        log=home.logs / "mlflow-server.log",
        record=home.root / MLFLOW,
    )
