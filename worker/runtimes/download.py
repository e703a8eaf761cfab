"""HTTP for images: bounded retries, no credentials carried to another host, hashes while storing."""

import errno
import hashlib
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.message import Message
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import IO, TypeVar
from urllib.parse import urlsplit

from worker.runtimes.errors import (
    ImageDenied,
    ImageNotFound,
    ImagePullFailed,
    ImageRateLimited,
    ImageUnusable,
    NoSpace,
    RegistryAway,
)

Result = TypeVar("Result")

ATTEMPTS = 3
"""Tries for each request (upstream's 1 + DOWNLOAD_MAX_RETRIES)."""

TIMEOUT_S = 30.0
"""For connecting and for each read."""

RATE_PATIENCE_S = 600.0
"""How long one download waits in all for a server that says 429: Docker Hub's window is six hours."""

LONGEST_PAUSE_S = 60.0
"""Between two requests when a server says 429 and not how long to wait."""

BLOCK_BYTES = 1 << 20
SMALL_BYTES = 8 << 20
"""The most that is read of a manifest or token; registries allow manifests of 4 MB."""

_REFUSED = frozenset({401, 403})
_MISSING = frozenset({404, 410})
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
TOO_MANY = 429


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
                    raise ImageUnusable(f"{self.path.name} is larger than announced")
                sha256.update(block)
                file.write(block)
        self.digest = f"sha256:{sha256.hexdigest()}"


def get(
    url: str, headers: Mapping[str, str], *, method: str = "GET", body: bool = True
) -> Response:
    """Fetch something small; answers 401 and the like instead of raising. Follows redirects.

    Without `body` only the headers are read.
    """

    def read() -> Response:
        try:
            with _open(url, headers, method) as answer:
                data = answer.read(SMALL_BYTES) if body else b""
                return Response(status=answer.status, headers=answer.headers, body=data)
        except urllib.error.HTTPError as error:
            if error.code >= 500 or error.code == 429:
                raise
            with error:
                return Response(status=error.code, headers=error.headers, body=error.read())

    return _with_retries(url, read)


def store(url: str, file: HashedFile, headers: Mapping[str, str]) -> None:
    """Download into a file, which afterwards knows its digest. Raises ImagePullFailed and kin."""

    def read() -> None:
        with _open(url, headers, "GET") as answer:
            file.read_from(answer)

    _with_retries(url, read)


def raise_for_status(status: int, what: str) -> None:
    """Turn an HTTP status into the package's errors; nothing on success."""
    if status in _REFUSED:
        raise ImageDenied(f"{what}: access refused (HTTP {status})")
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
    failures, waited_s = 0, 0.0
    while True:
        try:
            return read()
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == TOO_MANY:
                waited_s += _wait_for_limit(what, error.headers, waited_s)
                continue
            raise_for_status(error.code if error.code < 500 else 0, what)
            problem = RegistryAway(f"{what}: HTTP {error.code}")
        except (OSError, http.client.HTTPException) as error:
            if getattr(error, "errno", None) in _FULL:
                raise NoSpace(f"{what}: no space left on this node") from error
            problem = RegistryAway(f"{what}: {_reason(error)}")
        failures += 1
        if failures == ATTEMPTS:
            raise problem
        time.sleep(failures)


def _wait_for_limit(what: str, headers: Message, waited_s: float) -> float:
    """Wait as long as the server asks; raises ImageRateLimited when that is too long. Returns the seconds."""
    asked = headers.get("Retry-After", "")
    pause_s = _seconds(asked) if asked else min(LONGEST_PAUSE_S, max(1.0, waited_s))
    if waited_s + pause_s > RATE_PATIENCE_S:
        raise ImageRateLimited(
            f"{what}: too many requests (HTTP 429); waited {waited_s:.0f} s,"
            f" the registry asks for {pause_s:.0f} s more"
        )
    time.sleep(pause_s)
    return pause_s


def _seconds(retry_after: str) -> float:
    """RFC 9110, 10.2.3: seconds, or a date."""
    if retry_after.strip().isdigit():
        return max(1.0, float(retry_after))
    try:
        at = parsedate_to_datetime(retry_after)
    except ValueError:
        return 1.0
    return max(1.0, at.timestamp() - time.time())


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


def _open(url: str, headers: Mapping[str, str], method: str) -> http.client.HTTPResponse:
    request = urllib.request.Request(url, headers=dict(headers), method=method)  # noqa: S310 - only http handlers
    response: http.client.HTTPResponse = _opener().open(request, timeout=TIMEOUT_S)
    return response
