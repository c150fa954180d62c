"""The address at which a model is served: requests go to one service, and then to the next.

A request is received whole, so that it can be given to another service if the first one ends
before it answers. Nothing of a request is kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import IO

import httpx
import uvicorn
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from minivess.errors import ServingError
from minivess.runtime.servers import is_free, listener
from minivess.serving import model_record
from minivess.serving.access import Access
from minivess.serving.middleware import MEGABYTE
from minivess.serving.upload import Refusal, Tracked, parts, receive_all, wait_unless_gone

HOP_BY_HOP = {b"connection", b"host", b"keep-alive", b"transfer-encoding", b"upgrade"}
PATIENCE_S = 120.0
"""How long a request waits for a service to be there."""
POLL_S = 0.1
LARGEST_MB = 1024
"""Of an upload that comes while no service is up yet."""
END_S = 60
STARTUP_S = 30.0
log = logging.getLogger(__name__)


@dataclass(eq=False)
class Backend:
    """A service that requests are given to, and how many it has now."""

    url: str
    model: model_record.ServedModel
    in_flight: int = 0


class Front:
    """ASGI application that gives each request to the current service."""

    def __init__(self) -> None:
        self.backend: Backend | None = None
        self._access = Access.stated()
        self._client = httpx.AsyncClient(timeout=None, trust_env=False, limits=httpx.Limits())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            return
        try:
            self._access.check(scope)
            limit = (self.backend.model.max_upload_mb if self.backend else LARGEST_MB) * MEGABYTE
            with await receive_all(receive, limit) as body:
                gone, sent = asyncio.ensure_future(receive()), Tracked(send)
                await wait_unless_gone(self._answer(scope, body, sent.send), gone, sent)
        except Refusal as refused:
            await refused.answer(scope, receive, send)
        except ClientDisconnect:
            log.info("a client hung up")

    async def _answer(self, scope: Scope, body: IO[bytes], send: Send) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            backend = self.backend
            if backend is not None:
                backend.in_flight += 1
                try:
                    if await self._passed(backend, scope, body, send):
                        return
                finally:
                    backend.in_flight -= 1
            await asyncio.sleep(POLL_S)
        problem = f"No service answered for {PATIENCE_S:g} s."
        remedy, later = "ask again in a minute", {"Retry-After": "60"}
        refusal = Refusal(HTTPStatus.SERVICE_UNAVAILABLE, problem, remedy, later)
        await refusal.answer(scope, _nothing, send)

    async def _passed(self, backend: Backend, scope: Scope, body: IO[bytes], send: Send) -> bool:
        """Whether the service answered; False if it ended before, so that another one can."""
        path = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
        size = body.seek(0, 2)
        headers = [(name, value) for name, value in scope["headers"] if name not in HOP_BY_HOP]
        if size and b"content-length" not in dict(headers):
            headers.append((b"content-length", str(size).encode()))
        request = self._client.build_request(
            scope["method"],
            httpx.URL(backend.url).copy_with(raw_path=path),
            headers=headers,
            content=parts(body) if size else None,
        )
        try:
            answer = await self._client.send(request, stream=True)
        except httpx.TransportError as gone:
            log.info("%s did not answer: %r", backend.url, gone)
            return False
        async with contextlib.aclosing(answer):
            kept = [pair for pair in answer.headers.raw if pair[0].lower() not in HOP_BY_HOP]
            start = {"type": "http.response.start", "status": answer.status_code, "headers": kept}
            await send(start)
            async for part in answer.aiter_raw():
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        return True


async def _nothing() -> Message:
    return {"type": "http.disconnect"}


@contextlib.contextmanager
def listening(front: Front, host: str, port: int) -> Iterator[None]:
    """Listen for the length of a `with` block; on leaving, requests that are in are answered.

    Raises:
        ServingError: the port is in use, or the address is not one of this machine.
    """
    if not is_free(port):
        raise ServingError(
            f"Port {port} is taken{listener(port)}.",
            remedy=f"minivess serve --port {port + 1}, or `minivess serve stop` if it serves there",
        )
    server = uvicorn.Server(
        uvicorn.Config(
            front, host=host, port=port, lifespan="off", log_config=None, access_log=False,
            timeout_graceful_shutdown=END_S,
        )
    )  # fmt: skip
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + STARTUP_S
    while not server.started and thread.is_alive() and time.monotonic() < deadline:
        time.sleep(0.01)
    if not server.started:
        raise ServingError(
            f"Nothing can listen at {host}:{port}.", remedy="minivess serve --host 127.0.0.1"
        )
    try:
        yield
    finally:
        server.should_exit = True
        thread.join()
