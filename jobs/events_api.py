"""`GET /jobs/{id}/events`: a job's changes and output as server-sent events, while they happen.

Owns the HTTP side: who may follow, the cursor of a client that comes back, headers, and the end of the stream. What is
told is `jobs.story`'s. An ASGI application beside Django's views, so that thousands can wait: no thread and no database
connection is held by someone who waits.

Source of the format: WHATWG HTML, "Server-sent events"; 204 is its way to say that there is nothing more.
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import aclosing
from typing import Any
from urllib.parse import parse_qs

from jobs.follow import Hub
from jobs.models import Job
from jobs.story import BadCursor, Cursor, Story
from prominence.auth import authenticate_header_value
from prominence.errors import (
    BadRequest,
    NotAuthenticated,
    UnknownJob,
    as_api_error,
)

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

RETRY_MS = 1000
_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]
_MAXIMUM_JOB_DIGITS = 18


class EventsApp:
    """Serves every events request of this process from one hub."""

    def __init__(self, hub: Hub | None = None) -> None:
        self.hub = hub or Hub()

    async def __call__(self, job: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; `job` is the word of the path where an id should be."""
        if scope["method"] != "GET":
            await send_json(send, 405, {"error": "Method not allowed"}, [(b"allow", b"GET")])
            return
        try:
            cursor, output = _asked(scope)
            job_id = await self.hub.in_thread(_authorize, _header(scope, b"authorization"), job)
        except Exception as error:  # noqa: BLE001 the edge of the process: every error becomes an answer
            await _refuse(send, error)
            return
        if cursor.ended:
            await send({"type": "http.response.start", "status": 204, "headers": _HEADERS[1:]})
            await send({"type": "http.response.body", "body": b""})
            return
        await _until_gone(self._tell(send, job_id, cursor, output=output), receive)

    async def _tell(self, send: Send, job_id: int, cursor: Cursor, *, output: bool) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        await _send_part(send, f"retry: {RETRY_MS}\n\n".encode())
        async with self.hub.follow(job_id) as follower:
            story = Story(self.hub, follower, cursor, output=output)
            async with aclosing(story.messages()) as messages:  # type: ignore[type-var]
                async for message in messages:
                    await _send_part(send, message.encode())
        await send({"type": "http.response.body", "body": b""})


async def send_json(
    send: Send, status: int, body: dict[str, Any], headers: list[tuple[bytes, bytes]] | None = None
) -> None:
    """A whole JSON answer."""
    data = json.dumps(body).encode()
    own = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
    await send(
        {"type": "http.response.start", "status": status, "headers": [*own, *(headers or [])]}
    )
    await send({"type": "http.response.body", "body": data})


async def _send_part(send: Send, data: bytes) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": True})


async def _until_gone(work: Any, receive: Receive) -> None:
    """Do `work` until it is done or the client has gone."""
    working = asyncio.create_task(work)
    watching = asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        watching.cancel()
        if not working.done():
            working.cancel()
        await asyncio.wait({working})
    if not working.cancelled():
        working.result()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _refuse(send: Send, error: Exception) -> None:
    known = as_api_error(error)
    if known is None:
        logger.error("events request failed", exc_info=error)
        await send_json(send, 500, {"error": "Internal error"})
        return
    headers = []
    if isinstance(known, NotAuthenticated):
        headers.append((b"www-authenticate", b'Bearer realm="prominence"'))
    if known.retryable:
        headers.append((b"retry-after", b"5"))
    await send_json(send, known.http_status, known.body(), headers)


def _asked(scope: Scope) -> tuple[Cursor, bool]:
    """Where to go on, and whether output is wanted. A header comes from the client's memory, so it wins."""
    query = parse_qs(scope.get("query_string", b"").decode("latin1"), keep_blank_values=True)
    text = _header(scope, b"last-event-id") or query.get("lastEventId", [""])[-1]
    output = query.get("output", ["true"])[-1].lower()
    if output not in {"true", "false"}:
        raise BadRequest("output must be true or false")
    try:
        return (Cursor.parse(text) if text else Cursor()), output == "true"
    except BadCursor as error:
        raise BadRequest("Last-Event-ID is not an id of this stream") from error


def _header(scope: Scope, name: bytes) -> str:
    values = [value for key, value in scope["headers"] if key == name]
    return values[-1].decode("latin1") if values else ""


def _authorize(authorization: str, job: str) -> int:
    """The id of the job that the caller may follow.

    Raises:
        ApiError: NotAuthenticated, or UnknownJob, which is also what somebody else's job looks like.
    """
    if not authorization:
        raise NotAuthenticated
    user, principal = authenticate_header_value(authorization)
    if not (job.isascii() and job.isdigit() and len(job) <= _MAXIMUM_JOB_DIGITS):
        raise UnknownJob
    job_id = int(job)
    if principal.job_id not in {None, job_id}:
        raise UnknownJob
    if not Job.objects.of(user.pk).filter(pk=job_id).exists():
        raise UnknownJob
    return job_id
