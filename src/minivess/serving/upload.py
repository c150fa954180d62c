"""The body of a request: received whole into a temporary file, within limits, then replayed."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine
from http import HTTPStatus
from typing import IO, Any

from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import Message, Receive, Send

from minivess import files

GRACE_S = 20.0
LEAST_RATE = 2**16
"""Bytes per second, after GRACE_S, that a client has to send."""
PART = 2**20


class Refusal(Exception):  # noqa: N818 (an answer, not a fault)
    """A request that is not taken: status, problem, remedy and headers of the answer."""

    def __init__(
        self, status: HTTPStatus, problem: str, remedy: str, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(problem)
        self.answer = JSONResponse({"error": problem, "remedy": remedy}, status, headers)


def too_large(limit: int) -> Refusal:
    """Return the refusal of a body of more than `limit` bytes."""
    return Refusal(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"The upload is larger than {limit / 2**20:g} MiB.",
        "send the volume compressed (.nii.gz), or in blocks",
    )


async def receive_all(receive: Receive, limit: int) -> IO[bytes]:
    """Receive a body into a temporary file; a client that does not send occupies nothing else.

    Raises:
        Refusal: it is larger than `limit` bytes or too slow, or the disk is full.
        ClientDisconnect: the client hung up.
    """
    spool, size, begun = tempfile.TemporaryFile(), 0, time.monotonic()  # noqa: SIM115
    try:
        more = True
        while more:
            patience = begun + GRACE_S + size / LEAST_RATE - time.monotonic()
            message = await asyncio.wait_for(receive(), max(patience, 0))
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            part, more = message.get("body", b""), message.get("more_body", False)
            size += len(part)
            if size > limit:
                raise too_large(limit)
            spool.write(part)
        spool.seek(0)
    except BaseException as error:
        spool.close()
        if isinstance(error, Exception) and (refusal := _refusal(error, size)):
            raise refusal from error
        raise
    return spool


def _refusal(error: Exception, size: int) -> Refusal | None:
    if isinstance(error, TimeoutError):
        problem = f"{size} bytes arrived, at less than {LEAST_RATE // 1024} KiB per second."
        return Refusal(HTTPStatus.REQUEST_TIMEOUT, problem, "send the volume again")
    if files.says_full(error):
        problem = "The disk of the service has no room for the volume."
        return Refusal(HTTPStatus.INSUFFICIENT_STORAGE, problem, "ask again later")
    return None


class Tracked:
    """A `send` that knows whether all of an answer was handed over."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.complete = False

    async def send(self, message: Message) -> None:
        """Send one ASGI message."""
        last = message["type"] == "http.response.body" and not message.get("more_body", False)
        self.complete = self.complete or last
        await self._send(message)


async def wait_unless_gone(
    work: Coroutine[Any, Any, None], gone: asyncio.Future[Message], answer: Tracked
) -> None:
    """Do work for a client, and give it up when the client is `gone`.

    Servers report a client as gone as soon as its answer is complete, too.

    Raises:
        ClientDisconnect: it hung up before the work was done.
    """
    task: asyncio.Future[Any] = asyncio.ensure_future(work)
    try:
        await asyncio.wait([gone, task], return_when=asyncio.FIRST_COMPLETED)
        if not task.done() and not answer.complete:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            raise ClientDisconnect
        await task
    finally:
        gone.cancel()
        task.cancel()


def replay(spool: IO[bytes], gone: asyncio.Future[Message]) -> Receive:
    """Return a `receive` that yields a received body, and then waits until the client is `gone`."""
    done = False

    async def receive() -> Message:
        nonlocal done
        if done:
            return await asyncio.shield(gone)
        part = spool.read(PART)
        done = len(part) < PART
        return {"type": "http.request", "body": part, "more_body": not done}

    return receive


async def parts(body: IO[bytes]) -> AsyncIterator[bytes]:
    """Yield a received body from its beginning."""
    body.seek(0)
    while part := body.read(PART):
        yield part
