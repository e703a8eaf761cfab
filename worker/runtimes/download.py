"""HTTP for images: bounded retries, no credentials carried to another host, hashes while storing."""

import hashlib
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from typing import IO, TypeVar
from urllib.parse import urlsplit

from worker.runtimes.errors import AuthenticationFailed, ImageNotFound, ImagePullFailed

Result = TypeVar("Result")

ATTEMPTS = 3
"""Tries for each request (upstream's 1 + DOWNLOAD_MAX_RETRIES)."""

TIMEOUT_S = 30.0
"""For connecting and for each read."""

BLOCK_BYTES = 1 << 20
SMALL_BYTES = 8 << 20
"""The most that is read of a manifest or token; registries allow manifests of 4 MB."""

_REFUSED = frozenset({401, 403})
_MISSING = frozenset({404, 410})


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """A small answer, wholly read. `headers` are case-insensitive."""

    status: int
    headers: Message
    body: bytes


@dataclass(slots=True, kw_only=True)
class HashedFile:
    """Stores a stream in a file and computes its digest."""

    path: Path
    limit_bytes: int | None = None
    digest: str = field(default="", init=False)

    def read_from(self, stream: IO[bytes]) -> None:
        """Replace the file by the stream's content. Raises ImagePullFailed past the limit."""
        sha256, size = hashlib.sha256(), 0
        with self.path.open("wb") as file:
            while block := stream.read(BLOCK_BYTES):
                size += len(block)
                if self.limit_bytes is not None and size > self.limit_bytes:
                    raise ImagePullFailed(f"{self.path.name} is larger than announced")
                sha256.update(block)
                file.write(block)
        self.digest = f"sha256:{sha256.hexdigest()}"


def get(url: str, headers: Mapping[str, str]) -> Response:
    """Fetch something small; answers 401 and the like instead of raising. Follows redirects."""

    def read() -> Response:
        try:
            with _open(url, headers) as answer:
                return Response(
                    status=answer.status, headers=answer.headers, body=answer.read(SMALL_BYTES)
                )
        except urllib.error.HTTPError as error:
            if error.code >= 500 or error.code == 429:
                raise
            with error:
                return Response(status=error.code, headers=error.headers, body=error.read())

    return _with_retries(url, read)


def store(url: str, file: HashedFile, headers: Mapping[str, str]) -> None:
    """Download into a file, which afterwards knows its digest. Raises ImagePullFailed and kin."""

    def read() -> None:
        with _open(url, headers) as answer:
            file.read_from(answer)

    _with_retries(url, read)


def raise_for_status(status: int, what: str) -> None:
    """Turn an HTTP status into the package's errors; nothing on success."""
    if status in _REFUSED:
        raise AuthenticationFailed(f"{what}: access refused (HTTP {status})")
    if status in _MISSING:
        raise ImageNotFound(f"{what}: not found (HTTP {status})")
    if status >= 400:
        raise ImagePullFailed(f"{what}: HTTP {status}")


def without_secrets(url: str) -> str:
    """The URL without user, password and query (which may be a signature)."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _with_retries(url: str, read: Callable[[], Result]) -> Result:
    what = without_secrets(url)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return read()
        except urllib.error.HTTPError as error:
            error.close()
            if (error.code < 500 and error.code != 429) or attempt == ATTEMPTS:
                raise_for_status(error.code, what)
        except (OSError, http.client.HTTPException) as error:
            if attempt == ATTEMPTS:
                raise ImagePullFailed(f"{what}: {_reason(error)}") from error
        time.sleep(attempt)
    raise AssertionError("unreachable")


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    return f"{type(reason).__name__}: {reason}"


class _SameHostCredentials(urllib.request.HTTPRedirectHandler):
    """Registries redirect to object stores, which must not see (and reject) the registry's token."""

    def redirect_request(  # noqa: PLR0913 - the signature is urllib's
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: Message,
        newurl: str,
    ) -> urllib.request.Request | None:
        following = super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]
        if following is not None and urlsplit(newurl).netloc != urlsplit(req.full_url).netloc:
            following.headers.pop("Authorization", None)
        return following


def _opener() -> urllib.request.OpenerDirector:
    # Not build_opener(): that one also opens file:, ftp: and data: addresses.
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
        _SameHostCredentials(),
    ):
        opener.add_handler(handler)
    return opener


def _open(url: str, headers: Mapping[str, str]) -> http.client.HTTPResponse:
    request = urllib.request.Request(url, headers=dict(headers))  # noqa: S310 - only http handlers
    response: http.client.HTTPResponse = _opener().open(request, timeout=TIMEOUT_S)
    return response
