"""The ASGI application: server-sent events as coroutines, everything else through Django in a fixed pool of threads.

Owns routing between the two and the limit on request bodies. A body is taken in whole before a thread is given to its
request, so that slow or vanished clients hold no thread, and a view never sees half a body.
"""

import asyncio
import re
from collections.abc import Iterable
from contextlib import suppress
from tempfile import SpooledTemporaryFile
from typing import IO, Any, cast

from a2wsgi import WSGIMiddleware
from django.conf import settings

from prominence.wsgi import application as _django

# Models can be imported only now that the line above has set Django up.
from jobs.events_api import EventsApp, Receive, Scope, Send, send_json  # isort: skip

BODY_BYTES = 64 << 20
_IN_MEMORY_BYTES = 1 << 20
_BLOCK_BYTES = 1 << 18
_TOO_LARGE = {"error": "The request is larger than this server accepts (64 MB)"}
# For a client that sends all before it listens: how long its bytes are thrown away so that it sees the answer.
_DRAIN_S = 2.0

_EVENTS = re.compile(r"/(?:api|prominence)/v1/jobs/([^/]+)/events")


class Application:
    """See the module. `events.hub.begin_closing()` sends followers away before a shutdown."""

    def __init__(self) -> None:
        self.events = EventsApp()
        self._django: Any = WSGIMiddleware(cast(Any, _django), workers=settings.CONFIG.api_threads)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
        elif match := _EVENTS.fullmatch(scope["path"]):
            await self.events(match[1], scope, receive, send)
        else:
            await self._pass_to_django(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                await self.events.hub.close()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return

    async def _pass_to_django(self, scope: Scope, receive: Receive, send: Send) -> None:
        with SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES) as body:
            try:
                size = await _take_in(scope, receive, body)
            except _Vanished:
                return
            except _TooLarge:
                await _refuse_body(receive, send)
                return
            body.seek(0)
            await self._django(_with_length(scope, size), _replay(body, size), send)


class _Vanished(Exception):
    """The client went away before its request was complete."""


class _TooLarge(Exception):
    """The body is, or says it is, over the limit."""


async def _take_in(scope: Scope, receive: Receive, body: IO[bytes]) -> int:
    """Write the whole body into `body`; returns its size."""
    if _content_length(scope["headers"]) > BODY_BYTES:
        raise _TooLarge
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _Vanished
        part = message.get("body", b"")
        size += len(part)
        if size > BODY_BYTES:
            raise _TooLarge
        body.write(part)
        more = message.get("more_body", False)
    return size


def _content_length(headers: Iterable[tuple[bytes, bytes]]) -> int:
    return max((int(value) for name, value in headers if name == b"content-length"), default=0)


def _with_length(scope: Scope, size: int) -> Scope:
    """Django reads nothing from a chunked body, which has no length; by now it has one."""
    headers = [
        pair
        for pair in scope["headers"]
        if pair[0] not in {b"content-length", b"transfer-encoding"}
    ]
    had_length = any(name == b"content-length" for name, _ in scope["headers"])
    if size or had_length:
        headers.append((b"content-length", str(size).encode()))
    return {**scope, "headers": headers}


def _replay(body: IO[bytes], size: int) -> Receive:
    async def receive() -> dict[str, Any]:
        block = body.read(_BLOCK_BYTES)
        return {"type": "http.request", "body": block, "more_body": body.tell() < size}

    return receive


async def _refuse_body(receive: Receive, send: Send) -> None:
    async def send_and_drain(message: Any) -> None:
        if message["type"] == "http.response.body":
            await send({**message, "more_body": True})
            await _drain(receive)
            message = {"type": "http.response.body", "body": b""}
        await send(message)

    await send_json(send_and_drain, 413, _TOO_LARGE, [(b"connection", b"close")])


async def _drain(receive: Receive) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(_DRAIN_S):
            while (message := await receive())["type"] == "http.request":
                if not message.get("more_body", False):
                    return


application = Application()
