"""Make what the servers of compose.yaml need: a bucket, the tables of Prefect and MLflow.

Once, and before both: servers that migrate one empty database side by side end each other.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

import boto3
from botocore.exceptions import BotoCoreError, ClientError
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

PATIENCE_S = 60


def make_bucket(name: str, endpoint: str) -> None:
    """Make a bucket unless it is there; the store may still be starting."""
    store = boto3.client("s3", endpoint_url=endpoint)
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            if name not in {bucket["Name"] for bucket in store.list_buckets()["Buckets"]}:
                store.create_bucket(Bucket=name)
        except (BotoCoreError, ClientError):
            if time.monotonic() > deadline:
                raise
            time.sleep(1)
        else:
            return


bucket = os.environ["MLFLOW_ARTIFACTS_DESTINATION"].removeprefix("s3://").partition("/")[0]
make_bucket(bucket, os.environ["MLFLOW_S3_ENDPOINT_URL"])
command = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "--yes"]
subprocess.run(command, check=True)
# MLflow makes or upgrades its tables when a store is opened.
SqlAlchemyStore(os.environ["MLFLOW_BACKEND_STORE_URI"], "mlflow-artifacts:/")
