"""ASGI middleware: limits, lineage headers, error bodies, request counter."""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus
from pathlib import Path
from typing import IO, Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import HTMLResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from minivess import units
from minivess.config import environment
from minivess.runtime import templates
from minivess.serving import model_record
from minivess.serving.access import Access
from minivess.serving.jobs import Jobs
from minivess.serving.upload import (
    Refusal,
    Tracked,
    receive_all,
    replay,
    too_large,
    wait_unless_gone,
)
from minivess.serving.waiting import AS_JOB, Queue, QueueFull
from minivess.text import several

ROUTE = "/predict"
USAGE = f"curl -F image=@volume.nii.gz -F answer=nifti http://HOST:PORT{ROUTE} -o mask.nii.gz"
TEMPLATE = Path(__file__).with_name("service.html.j2")
MEGABYTE = 2**20
CLIENT_GONE = 499
"""Status in the counters of a request whose client hung up before the answer."""
RETRIED = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
OWN_ONLY = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; connect-src 'self'; form-action 'none'; frame-ancestors 'none'"
}


class ServiceMiddleware:
    """ASGI middleware of the service.

    Receives a body whole before it takes a place in the queue, refuses what is too large, too slow
    or no upload, adds model and lineage ids to every response and a remedy to every error, and
    counts responses.
    """

    def __init__(self, app: ASGIApp) -> None:
        from minivess.serving import metrics

        self.app = app
        self.model = model_record.read(Path.cwd())
        self.access = Access.stated()
        self.queue = Queue(self.model.max_waiting, self.model.max_wait_s)
        self.in_queue = metrics.QUEUE
        self.requests = metrics.REQUESTS
        self.jobs = Jobs(environment().jobs)
        self.working: asyncio.Future[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if self.working is None:  # requests come when the network is loaded, jobs need it as well
            self.working = asyncio.ensure_future(self.jobs.work(self._of_job))
        answer = Answer(send, self.model, self.queue)
        try:
            self.access.check(scope)
            await self._dispatch(scope, receive, answer)
        except Refusal as refused:
            await refused.answer(scope, receive, answer.send)
        except ClientDisconnect:
            answer.status = CLIENT_GONE

    async def _dispatch(self, scope: Scope, receive: Receive, answer: Answer) -> None:
        if scope["path"] == "/":
            # BentoML's own page loads a tracker from the internet.
            await HTMLResponse(page(self.model), headers=OWN_ONLY)(scope, receive, answer.send)
        elif scope["path"].removeprefix("/").split("/")[0] == "jobs":
            await self._of_jobs(scope, receive, answer)
        elif scope["path"] != ROUTE or scope["method"] != "POST":
            await self.app(scope, receive, answer.send)
        else:
            await self._counted(scope, receive, answer)

    async def _counted(self, scope: Scope, receive: Receive, answer: Answer) -> None:
        try:
            await self._predict(scope, receive, answer)
        except ClientDisconnect:
            answer.status = CLIENT_GONE
        finally:
            self.requests.labels(self.model.label, str(answer.status)).inc()

    async def _predict(self, scope: Scope, receive: Receive, answer: Answer) -> None:
        limit = self.model.max_upload_mb * MEGABYTE
        try:
            refuse(Headers(scope=scope), limit)
            with await receive_all(receive, limit) as spool:
                await self._in_turn(scope, receive, spool, answer)
        except Refusal as failed:
            await failed.answer(scope, receive, answer.send)
        except QueueFull:
            problem = (
                f"{several(self.queue.waiting, 'volume', 'are')} waiting already, for about "
                f"{self.queue.wait_s:.0f} s."
            )
            remedy = f"ask again in {self.queue.retry_s} s"
            refusal = Refusal(HTTPStatus.TOO_MANY_REQUESTS, problem, remedy)
            await refusal.answer(scope, receive, answer.send)

    async def _of_jobs(self, scope: Scope, receive: Receive, answer: Answer) -> None:
        limit = self.model.max_upload_mb * MEGABYTE
        if scope["method"] == "POST":
            refuse(Headers(scope=scope), limit)
        with await receive_all(receive, limit) as body:
            reply = await self.jobs.reply(scope, body)
        await reply(scope, receive, answer.send)

    async def _of_job(self, scope: Scope, receive: Receive, send: Send) -> None:
        AS_JOB.set(True)
        await self._counted(scope, receive, Answer(send, self.model, self.queue))

    async def _in_turn(
        self, scope: Scope, receive: Receive, spool: IO[bytes], answer: Answer
    ) -> None:
        """Let the service answer in turn; a client that hangs up leaves the queue."""

        async def work() -> None:
            async with self.queue.turn():
                await self.app(scope, replay(spool, gone), answer.send)

        gone = asyncio.ensure_future(receive())
        with self.in_queue.track_inprogress():
            await wait_unless_gone(work(), gone, answer.sent)


def refuse(headers: Headers, limit: int) -> None:
    """Check what is known before the body.

    Raises:
        Refusal: it is no upload, or says that it is too large.
    """
    if not headers.get("content-type", "").startswith("multipart/form-data"):
        problem = "The volume must be an upload."
        raise Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, problem, USAGE)
    length = headers.get("content-length", "0")
    if not length.isdigit() or int(length) > limit:
        raise too_large(limit)


class Answer:
    """Adds ids to a response; the body of an error is rewritten with a remedy."""

    def __init__(self, send: Send, model: model_record.ServedModel, queue: Queue) -> None:
        self.sent = Tracked(send)
        self._model = model
        self._queue = queue
        self._start: Message | None = None
        self._body = b""
        self.status = 500

    async def send(self, message: Message) -> None:
        """Send one ASGI message."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            MutableHeaders(raw=message["headers"]).update(self._model.headers())
            if self.status < 400:
                await self.sent.send(message)
            else:
                self._start = message
        elif self._start is None:
            await self.sent.send(message)
        else:
            self._body += message.get("body", b"")
            if not message.get("more_body", False):
                await self._finish(self._start)

    async def _finish(self, start: Message) -> None:
        body = explained(self.status, self._body, self._model)
        headers = MutableHeaders(raw=start["headers"])
        headers["content-type"] = "application/json"
        headers["content-length"] = str(len(body))
        if self.status in RETRIED:
            headers.setdefault("Retry-After", str(self._queue.retry_s))
        await self.sent.send(start)
        await self.sent.send({"type": "http.response.body", "body": body})


def page(model: model_record.ServedModel) -> str:
    """Return the page at `/`: the served model and its usage; it loads nothing from elsewhere."""
    return templates.render(TEMPLATE, model=model, usage=USAGE, size=units.spacing_text)


def explained(status: int, body: bytes, model: model_record.ServedModel) -> bytes:
    """Return the JSON body of an error: error, remedy, code of a check, model, lineage."""
    content = _parsed(body)
    own = "remedy" in content
    remedy = USAGE if status < 500 else "read the service's log; the input was not the cause"
    answer = {
        "error": content["error"] if own else _problem(status, content),
        "remedy": content["remedy"] if own else remedy,
        **({"code": content["code"]} if own and "code" in content else {}),
        "model": model.label,
        "lineage": model.lineage,
    }
    return json.dumps(answer).encode()


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        content = json.loads(body)
    except ValueError:
        return {}
    if isinstance(content, list) and content:  # BentoML wraps its own errors in a list
        content = content[0]
    return content if isinstance(content, dict) else {}


def _problem(status: int, content: dict[str, Any]) -> str:
    details = [
        f"{'.'.join(str(step) for step in item.get('loc', ()))}: {item.get('msg')}"
        for item in content.get("detail", ())
        if isinstance(item, dict)
    ]
    return "; ".join(details) or str(content.get("error", HTTPStatus(status).phrase))
