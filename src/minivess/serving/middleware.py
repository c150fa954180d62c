"""ASGI middleware: limits, lineage headers, error bodies, request counter."""

from __future__ import annotations

import json
from http import HTTPStatus
from pathlib import Path
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import HTMLResponse, JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from minivess.runtime import templates
from minivess.serving import model_record
from minivess.text import several

ROUTE = "/predict"
USAGE = f"curl -F image=@volume.nii.gz -F answer=nifti http://HOST:PORT{ROUTE} -o mask.nii.gz"
TEMPLATE = Path(__file__).with_name("service.html.j2")
MEGABYTE = 2**20


class ServiceMiddleware:
    """ASGI middleware of the service.

    Rejects bodies that are too large or no upload before they are read, adds model and lineage ids
    to every response, adds a remedy to every error, and counts responses.
    """

    def __init__(self, app: ASGIApp) -> None:
        from minivess.serving import metrics

        self.app = app
        self.model = model_record.read(Path.cwd())
        self.waiting = 0
        self.requests = metrics.REQUESTS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        answer = Answer(send, self.model)
        if scope["path"] == "/":
            # BentoML's own page loads a tracker from the internet.
            await HTMLResponse(page(self.model))(scope, receive, answer.send)
        elif scope["path"] != ROUTE:
            await self.app(scope, receive, answer.send)
        else:
            await self._counted(scope, receive, answer)

    async def _counted(self, scope: Scope, receive: Receive, answer: Answer) -> None:
        try:
            await self._predict(scope, receive, answer)
        finally:
            self.requests.labels(self.model.label, str(answer.status)).inc()

    async def _predict(self, scope: Scope, receive: Receive, answer: Answer) -> None:
        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, answer.send)
            return
        body = Body(receive, self.model.max_upload_mb * MEGABYTE)
        self.waiting += 1
        try:
            await self.app(scope, body.receive, body.unless_too_large(answer.send))
        except ClientDisconnect:
            if not body.too_large:
                raise
        finally:
            self.waiting -= 1
        if body.too_large:
            await self._too_large()(scope, receive, answer.send)

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        headers = Headers(scope=scope)
        length = headers.get("content-length", "0")
        if scope["method"] == "POST" and not headers.get("content-type", "").startswith(
            "multipart/form-data"
        ):
            return error(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "The volume must be an upload.", USAGE)
        if not length.isdigit() or int(length) > self.model.max_upload_mb * MEGABYTE:
            return self._too_large()
        if self.waiting >= self.model.max_waiting:
            problem = f"{several(self.waiting, 'volume', 'are')} waiting already."
            return error(HTTPStatus.TOO_MANY_REQUESTS, problem, "ask again in a minute")
        return None

    def _too_large(self) -> JSONResponse:
        return error(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"The upload is larger than {self.model.max_upload_mb} MiB.",
            "send the volume compressed (.nii.gz), or in blocks",
        )


class Body:
    """Counts a request's bytes as they arrive; beyond the limit it disconnects."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive = receive
        self._left = limit

    @property
    def too_large(self) -> bool:
        """Whether the limit was exceeded."""
        return self._left < 0

    async def receive(self) -> Message:
        """Receive the next part of the body."""
        message = await self._receive()
        self._left -= len(message.get("body", b""))
        return {"type": "http.disconnect"} if self.too_large else message

    def unless_too_large(self, send: Send) -> Send:
        """Drop the service's response to a body that was cut off."""

        async def guarded(message: Message) -> None:
            if not self.too_large:
                await send(message)

        return guarded


class Answer:
    """Adds ids to a response; the body of an error is rewritten with a remedy."""

    def __init__(self, send: Send, model: model_record.ServedModel) -> None:
        self._send = send
        self._model = model
        self._start: Message | None = None
        self._body = b""
        self.status = 500

    async def send(self, message: Message) -> None:
        """Send one ASGI message."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            MutableHeaders(raw=message["headers"]).update(self._model.headers())
            if self.status < 400:
                await self._send(message)
            else:
                self._start = message
        elif self._start is None:
            await self._send(message)
        else:
            self._body += message.get("body", b"")
            if not message.get("more_body", False):
                await self._finish(self._start)

    async def _finish(self, start: Message) -> None:
        body = explained(self.status, self._body, self._model)
        headers = MutableHeaders(raw=start["headers"])
        headers["content-type"] = "application/json"
        headers["content-length"] = str(len(body))
        await self._send(start)
        await self._send({"type": "http.response.body", "body": body})


def page(model: model_record.ServedModel) -> str:
    """Return the page at `/`: the served model and its usage; it loads nothing from elsewhere."""
    return templates.render(TEMPLATE, model=model, usage=USAGE)


def error(status: HTTPStatus, problem: str, remedy: str) -> JSONResponse:
    """Return an error response with its remedy."""
    return JSONResponse({"error": problem, "remedy": remedy}, status_code=status)


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
