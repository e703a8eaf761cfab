"""A cheap HTTP client for many calls: one kept connection, nothing parsed but JSON when it is asked for."""

import http.client
import json
import socket
import time
from collections.abc import Iterator
from typing import Any

from tests.servers import HOST
from tests.sse import ServerSentEvent, read_events

TIMEOUT_S = 60
KEPT_S = 3.0
"""The server closes a connection that is idle for 5 s."""


class Caller:
    """One connection of one user. Not for several threads."""

    def __init__(self, port: int, token: str) -> None:
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        self._connection = http.client.HTTPConnection(HOST, port, timeout=TIMEOUT_S)
        self._used = 0.0

    def get(self, path: str) -> bytes:
        return self._call("GET", path, None, 200)

    def post_job(self, body: bytes) -> bytes:
        return self._call("POST", "/jobs", body, 201)

    def submit(self, document: object) -> int:
        return int(json.loads(self.post_job(json.dumps(document).encode()))["id"])

    def events(self, job: int) -> Iterator[tuple[float, ServerSentEvent]]:
        """Server-sent events of a job with the time at which each was read; ends with the stream."""
        self._connect()
        self._connection.request("GET", f"/api/v1/jobs/{job}/events", headers=self._headers)
        answer = self._connection.getresponse()
        assert answer.status == 200, answer.read()
        for event in read_events(iter(lambda: answer.read1(65536), b"")):
            yield time.time(), event

    def close(self) -> None:
        self._connection.close()

    def _connect(self) -> None:
        now = time.monotonic()
        if now - self._used > KEPT_S:
            self._connection.close()
            self._connection.connect()
            self._connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._used = now

    def _call(self, method: str, path: str, body: bytes | None, status: int) -> bytes:
        self._connect()
        self._connection.request(method, f"/api/v1{path}", body, self._headers)
        answer = self._connection.getresponse()
        data = answer.read()
        assert answer.status == status, f"{method} {path}: {answer.status} {data[:500]!r}"
        return data


def state_of(event: ServerSentEvent) -> str:
    """The status that an event tells, or ""."""
    if event.event != "state":
        return ""
    found: dict[str, Any] = event.json()
    return str(found["status"])
