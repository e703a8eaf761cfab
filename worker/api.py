"""The node's HTTPS side: calls on `/node/v1/…` with the node token, and their errors.

ApiError
├── Unreachable    no answer, or a server that cannot answer now: try again
├── Refused        an answer that will not change by asking again (`status`)
└── Unauthorized   401: the token is not, or no longer, accepted (`fenced`: this life is over)
"""

import threading
import time
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlencode

import msgspec
import requests
from msgspec.structs import replace

from worker.protocol import (
    AttemptKey,
    Enrolment,
    EnrolRequest,
    FetchAnswer,
    FetchRequest,
    NodeError,
    Up,
    Word,
    encode,
)

TIMEOUT_S = (5.0, 30.0)
UPLOAD_TIMEOUT_S = (5.0, 120.0)
LATER = frozenset({408, 425, 429})
"""Statuses below 500 that say: again, later."""

Kind = TypeVar("Kind", bound=msgspec.Struct)


class ApiError(Exception):
    """Base: a call on the server did not do what it was for."""


class Unreachable(ApiError):
    """The server did not answer, or cannot now."""


class Refused(ApiError):
    """The server's answer is no; `code` is its word for why."""

    def __init__(self, status: int, text: str, code: str = "") -> None:
        super().__init__(f"{status}: {text}")
        self.status = status
        self.code = code


class Unauthorized(ApiError):
    """The server does not take our token."""

    def __init__(self, text: str, *, fenced: bool) -> None:
        super().__init__(text)
        self.fenced = fenced


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputPlace:
    """Which part of which output file: `number` tells the files of an attempt apart."""

    number: int
    name: str
    directory: bool
    size: int
    offset: int


class NodeApi:
    """The calls. Safe for many threads; every method blocks, for two minutes at the most."""

    def __init__(self, server: str, node_token: str = "") -> None:
        self._base = f"{server.rstrip('/')}/node/v1"
        self._token = node_token
        self._local = threading.local()

    def enrol(self, request: EnrolRequest) -> Enrolment:
        return self._struct(self._call("POST", "enrol", encode(request)), Enrolment)

    def heartbeat(self, up: Up) -> Word:
        return self._struct(self._call("POST", "heartbeat", encode(up)), Word)

    def fetch(self, keys: tuple[AttemptKey, ...]) -> FetchAnswer:
        answer = self._call("POST", "attempts/fetch", encode(FetchRequest(keys=keys)))
        fetched = self._struct(answer, FetchAnswer)
        now = time.time()
        items = (replace(item, submitted_at=now - item.age_s) for item in fetched.items)
        return replace(fetched, items=tuple(items))

    def input_file(self, key: AttemptKey, sha256: str) -> bytes:
        return self._call("GET", f"attempts/{key}/inputs/{sha256}")

    def put_log(self, key: AttemptKey, stream: str, offset: int, data: bytes) -> None:
        """Store [offset, offset + len(data)) of a log; may be repeated."""
        self._call("PUT", f"attempts/{key}/{stream}?offset={offset}", data)

    def put_output(self, key: AttemptKey, place: OutputPlace, data: bytes) -> None:
        """Store a piece of an output file; may be repeated."""
        query = urlencode(
            {
                "name": place.name,
                "directory": int(place.directory),
                "size": place.size,
                "offset": place.offset,
            },
            errors="replace",
        )
        self._call("PUT", f"attempts/{key}/outputs/{place.number}?{query}", data)

    def _call(self, method: str, path: str, body: bytes | None = None) -> bytes:
        headers = {
            "Content-Type": "application/json" if method == "POST" else "application/octet-stream"
        }
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        try:
            answer = self._session().request(
                method,
                f"{self._base}/{path}",
                data=body,
                headers=headers,
                timeout=UPLOAD_TIMEOUT_S if method == "PUT" else TIMEOUT_S,
                allow_redirects=False,
            )
        except requests.RequestException as error:
            raise Unreachable(f"{method} {path}: {type(error).__name__}") from error
        if answer.status_code >= 300:
            raise _error(answer.status_code, answer.content)
        return answer.content

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = requests.Session()
            # ~/.netrc would replace our token; proxies still come from the environment.
            session.auth = _keep_headers
        return session

    @staticmethod
    def _struct(data: bytes, kind: type[Kind]) -> Kind:
        try:
            return msgspec.json.decode(data, type=kind)
        except msgspec.MsgspecError as error:
            raise Unreachable(f"unreadable {kind.__name__}: {error}") from error


def _keep_headers(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _error(status: int, content: bytes) -> ApiError:
    try:
        body = msgspec.json.decode(content, type=NodeError)
    except msgspec.MsgspecError:
        body = NodeError(error=content[:200].decode(errors="replace"))
    if status == 401:
        return Unauthorized(body.error, fenced=body.code == "fenced")
    if status >= 500 or status in LATER:
        return Unreachable(f"{status}: {body.error}")
    return Refused(status, body.error, body.code)
