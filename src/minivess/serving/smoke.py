"""Smoke test of a built bento: start it, send one known volume, end it."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import numpy as np
import numpy.typing as npt
import psutil

from minivess.contracts import Case, Smoke
from minivess.errors import ServingError
from minivess.formats import volume
from minivess.home import Home
from minivess.runtime.processes import Child, supervised
from minivess.runtime.servers import HOST, free_port, is_free, listener
from minivess.serving import client, model_record, package

POLL_S = 0.1

logger = logging.getLogger(__name__)


class Service(NamedTuple):
    """A service that runs: its address, for example http://127.0.0.1:4711, and its process."""

    url: str
    process: Child


@contextlib.contextmanager
def serve(
    tag: str, home: Home, *, timeout: float, port: int | None = None, watched: bool = False
) -> Iterator[Service]:
    """Serve the bento `tag` on this machine.

    The service is ended when the block is left, also by an exception or a signal, and even if this
    process is killed. Without `port` a free one is used.

    Args:
        watched: store features of the requests for `minivess drift`, and jobs.

    Raises:
        ServingError: the port is in use, or the service dies or does not answer in `timeout` s.
    """
    chosen = port or free_port()
    if not is_free(chosen):
        raise ServingError(
            f"Port {chosen} is taken{listener(chosen)}.",
            remedy="stop the program that listens there, or leave the port out for a free one",
        )
    log = home.logs / "serve" / f"{tag.replace(':', '-')}.log"
    command = [
        sys.executable, "-m", "bentoml", "serve", tag, "--host", HOST, "--port", str(chosen),
    ]  # fmt: skip
    variables = package.environment(home.served)
    if watched:  # the front counts the requests of a token
        variables |= {
            "MINIVESS_REQUESTS": str(home.requests),
            "MINIVESS_REQUESTS_PER_MINUTE": "0",
            "MINIVESS_JOBS": str(home.serving / "jobs"),
        }
    with (
        uploads_folder(home) as folder,
        supervised(command, {**variables, "TMPDIR": folder}, log) as process,
    ):
        address = f"http://{HOST}:{chosen}"
        _wait(address, process, log, timeout)
        yield Service(address, process)


@contextlib.contextmanager
def uploads_folder(home: Home) -> Iterator[str]:
    """Make a private folder for uploads; remove it, and those that killed servers left."""
    place = home.serving / "uploads"
    place.mkdir(parents=True, exist_ok=True)
    mark = f"{socket.gethostname()}-"
    for left in place.glob(f"{mark}*"):
        if not psutil.pid_exists(int(left.name.removeprefix(mark).split("-")[0])):
            shutil.rmtree(left)
    with tempfile.TemporaryDirectory(prefix=f"{mark}{os.getpid()}-", dir=place) as folder:
        yield folder


def ask(url: str, case: Case, expected: npt.NDArray[np.uint8], *, minimum: float = 0.9999) -> Smoke:
    """Send one known volume to a running service and compare its mask with `expected`.

    Raises:
        ServingError: no mask on the same grid comes back, it agrees on less than `minimum` of
            the voxels, or the answer does not say which model gave it.
    """
    started = time.perf_counter()
    answer = client.post(url, case.image)
    seconds = time.perf_counter() - started
    got, sent = client.mask_of(answer), volume.read_volume(case.image)
    if got.shape != expected.shape or not np.allclose(got.affine, sent.affine, atol=1e-4):
        raise _failed(case, f"a mask of shape {got.shape} on another grid than {expected.shape}")
    agreement = float((got.array == expected).mean())
    lineage = model_record.lineage_of(dict(answer.headers))
    if agreement < minimum:
        raise _failed(case, f"a mask that agrees with ours on {agreement:.4%} of the voxels only")
    if "model" not in lineage:
        raise _failed(case, "an answer without model and lineage ids")
    return Smoke(case=case.case, seconds=seconds, mask_agreement=agreement, lineage=lineage)


# --- processes ----------------------------------------------------------------------------


def _wait(address: str, process: Child, log: Path, timeout: float) -> None:
    """Wait until the service is ready; fail as soon as a worker ends."""
    deadline = time.monotonic() + timeout
    workers: set[psutil.Process] = set()
    while not _ready(address):
        alive = _workers(process)
        if process.poll() is not None or workers - alive:
            raise _not_started("died at its start", log)
        if time.monotonic() > deadline:
            raise _not_started(f"did not answer within {timeout:g} s", log)
        workers |= alive
        time.sleep(POLL_S)
    logger.info("the service answers at %s", address)


def _ready(address: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        answer = httpx.get(f"{address}/readyz", timeout=2, trust_env=False)
        return answer.is_success and "model" in model_record.lineage_of(dict(answer.headers))
    return False


def _workers(process: Child) -> set[psutil.Process]:
    """Processes below BentoML's own, which is the only child of the supervisor."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return {
            worker
            for server in psutil.Process(process.pid).children()
            for worker in server.children()
            if worker.status() != psutil.STATUS_ZOMBIE
        }
    return set()


def _not_started(what: str, log: Path) -> ServingError:
    text = log.read_text(encoding="utf-8", errors="replace")
    errors = [line.strip() for line in text.splitlines() if "Error" in line]
    because = f": {errors[-1][-300:]}" if errors else ""
    return ServingError(
        f"The service {what}{because}.", remedy=f"read its log {log}, then `minivess deploy` again"
    )


def _failed(case: Case, what: str) -> ServingError:
    return ServingError(
        f"The service answered {case.case} with {what}.",
        remedy="the alias was not moved; deploy again, and look at logs/serve in the output folder",
    )
