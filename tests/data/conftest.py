"""What tests of data share: profiling a folder, and a local S3 server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from minivess.config import DataConfig, local_without_proxy
from minivess.data.pairing.cases import pair_files
from minivess.data.profiling import profile as profiles
from minivess.data.versions.file_hashes import FileHashes
from minivess.home import Home


@pytest.fixture
def run(home: Home) -> Callable[..., profiles.Measured]:
    """Profile a folder with this home's cache."""

    def run(root: Path, **settings: object) -> profiles.Measured:
        config = DataConfig.model_validate(settings)
        pairing = pair_files(root, group=config.group)
        paths = [path for case in pairing.cases for path in case.files]
        hashes = FileHashes(home.profile_cache / "index.json").hashes(paths)
        return profiles.profile(pairing, hashes, config=config, cache=home.profile_cache)

    return run


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket of a local S3 server; the address is given as every S3 client takes it."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        variables = {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "tests",
            "AWS_SECRET_ACCESS_KEY": "tests",
            "AWS_DEFAULT_REGION": "us-east-1",
            **local_without_proxy(),
        }
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        import boto3

        httpx.post(f"http://{host}:{port}/moto-api/reset", trust_env=False)  # of tests before
        boto3.client("s3").create_bucket(Bucket="volumes")
        yield "s3://volumes/minivess"
    finally:
        server.stop()
