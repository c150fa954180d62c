"""Jobs: uploads that are kept on disk, segmented in turn, and fetched later; a restart loses none.

A job is a folder. What it is at follows from its files, so that another service of the same
folder goes on where a killed one stopped; who works on a job holds a lock on its request.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import secrets
import shutil
import time
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import IO

import httpx
from starlette.datastructures import Headers
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.types import ASGIApp, Scope

from minivess import files
from minivess.serving.upload import Refusal, parts

MOST = 100
"""Jobs that are kept at once."""
KEPT_S = 7 * 24 * 3600.0
"""Seconds after its last change when a job is removed, waiting ones as well."""
TRIES = 3
"""How often a job is begun whose service ended meanwhile."""
POLL_S = 0.5
REQUEST, KIND, ANSWER, HEAD, BEGUN = "request", "kind", "answer", "answer.json", "begun"
log = logging.getLogger(__name__)


class Jobs:
    """The jobs of a folder, and who answers requests about them."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    async def reply(self, scope: Scope, body: IO[bytes]) -> Response:
        """Answer POST /jobs, GET /jobs/ID, GET /jobs/ID/result or DELETE /jobs/ID.

        Raises:
            Refusal: it is none of these, there is no such job, or too many are kept.
        """
        match scope["method"], scope["path"].strip("/").split("/")[1:]:
            case "POST", []:
                job = await asyncio.to_thread(self._submit, body, Headers(scope=scope))
                return JSONResponse(described(job), HTTPStatus.ACCEPTED)
            case "GET", [name]:
                return JSONResponse(described(self._job(name)))
            case "GET", [name, "result"]:
                return result(self._job(name))
            case "DELETE", [name]:
                shutil.rmtree(self._job(name))
                return JSONResponse({"id": name, "state": "cancelled"})
        remedy = "POST /jobs, GET /jobs/ID, GET /jobs/ID/result, or DELETE /jobs/ID"
        raise Refusal(HTTPStatus.METHOD_NOT_ALLOWED, "Jobs are not asked for so.", remedy)

    def _all(self) -> list[Path]:
        """The jobs, the oldest first."""
        if self._folder is None:
            problem = "This service keeps no jobs."
            remedy = "start it by `minivess serve`, or with MINIVESS_JOBS=FOLDER"
            raise Refusal(HTTPStatus.NOT_FOUND, problem, remedy)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        kept = [path for path in self._folder.iterdir() if (path / KIND).exists()]
        return sorted(kept, key=lambda job: (job / KIND).stat().st_mtime)

    def _job(self, name: str) -> Path:
        for job in self._all():
            if secrets.compare_digest(job.name.encode(), name.encode()):
                return job
        problem = "There is no such job; it was cancelled, or is older than a week."
        raise Refusal(HTTPStatus.NOT_FOUND, problem, "submit the volume again: POST /jobs")

    def _submit(self, body: IO[bytes], headers: Headers) -> Path:
        kept = self._all()
        for path in self._folder.iterdir() if self._folder else ():
            if time.time() - path.stat().st_mtime > KEPT_S:
                shutil.rmtree(path, ignore_errors=True)
                kept = [job for job in kept if job != path]
        if len(kept) >= MOST or self._folder is None:
            problem = f"{len(kept)} jobs are kept here, as many as may be."
            remedy = "fetch results and remove their jobs: DELETE /jobs/ID"
            raise Refusal(HTTPStatus.TOO_MANY_REQUESTS, problem, remedy, {"Retry-After": "60"})
        job = self._folder / secrets.token_urlsafe(16)
        job.mkdir(mode=0o700)
        with (job / REQUEST).open("wb") as stream:
            shutil.copyfileobj(body, stream)
        files.write_text(job / KIND, headers["content-type"])  # the job begins with this file
        return job

    async def work(self, ask: ASGIApp) -> None:
        """Answer the jobs one after the other, for as long as the service runs."""
        while self._folder is not None:
            await asyncio.sleep(POLL_S)
            try:
                for job in [job for job in self._all() if not (job / HEAD).exists()]:
                    with locked(job) as ours:
                        if ours and not (job / HEAD).exists():
                            await _unless_cancelled(job, _carry_out(job, ask))
            except Exception:
                log.exception("a job stopped; it is begun again")


async def _unless_cancelled(job: Path, work: Awaitable[None]) -> None:
    """Work on a job until it is done, or its folder is removed."""
    task = asyncio.ensure_future(work)
    while not task.done():
        await asyncio.wait([task], timeout=POLL_S)
        if not (job / KIND).exists():
            task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    if not (job / KIND).exists():
        shutil.rmtree(job, ignore_errors=True)


async def _carry_out(job: Path, ask: ASGIApp) -> None:
    with (job / BEGUN).open("a") as begun:
        begun.write("x")
        tries = begun.tell()
    if tries > TRIES:
        problem = f"The service ended {TRIES} times while it segmented this volume."
        remedy = "send it in blocks; the service's log says more"
        ask = Refusal(HTTPStatus.INTERNAL_SERVER_ERROR, problem, remedy).answer
    head, path = {"Content-Type": (job / KIND).read_text("utf-8")}, job / REQUEST
    async with httpx.AsyncClient(transport=httpx.ASGITransport(ask), timeout=None) as client:
        while True:
            with path.open("rb") as body:
                answer = await client.post("http://job/predict", content=parts(body), headers=head)
            if answer.status_code != HTTPStatus.TOO_MANY_REQUESTS:
                break
            await asyncio.sleep(float(answer.headers["Retry-After"]))
    (job / ANSWER).write_bytes(answer.content)
    files.write_json(job / HEAD, {"status": answer.status_code, "headers": dict(answer.headers)})
    path.unlink()


@contextmanager
def locked(job: Path, how: int = fcntl.LOCK_EX) -> Iterator[bool]:
    """Hold the lock of a job for a `with` block, and say whether it was free."""
    with (job / KIND).open("rb") as stream:
        try:
            fcntl.flock(stream, how | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def described(job: Path) -> dict[str, str]:
    """Return id, state (waiting, running, done, failed) and address of a job."""
    with locked(job, fcntl.LOCK_SH) as free:
        state = "waiting" if free else "running"
    if (job / HEAD).exists():
        state = "done" if files.read_json(job / HEAD)["status"] < 400 else "failed"
    return {"id": job.name, "state": state, "result": f"/jobs/{job.name}/result"}


def result(job: Path) -> Response:
    """Return the answer of a job: what POST /predict had answered.

    Raises:
        Refusal: it is not there yet.
    """
    if not (job / HEAD).exists():
        problem = f"The job is {described(job)['state']}."
        raise Refusal(HTTPStatus.CONFLICT, problem, "ask again later", {"Retry-After": "10"})
    head = files.read_json(job / HEAD)
    return FileResponse(job / ANSWER, head["status"], head["headers"])
