"""Downloading an artifact to disk: streamed, in several tries, going on where it broke (Range, RFC 9110 §14).

Runs as the job's own user. Follows redirects to http and https only. Errors name the address without its query, which
may be a signature.
"""

import http.client
import os
import time
import urllib.error
import urllib.request
from email.message import Message
from pathlib import Path
from urllib.parse import urlsplit

TRIES = 5
"""In a row without a byte of progress."""

PAUSE_S = 1.0
TIMEOUT_S = 30.0
BLOCK_BYTES = 1 << 18
_LATER = frozenset({408, 425, 429})


class DownloadFailed(Exception):
    """It cannot be had."""


class DownloadTooLarge(Exception):
    """It is more than the job's disk may hold."""


class Download:
    """One file. `limit_bytes`: more is not taken."""

    def __init__(self, url: str, path: Path, *, limit_bytes: int) -> None:
        self._url = url
        self._path = path
        self._limit_bytes = limit_bytes
        self._validator = ""  # of what is on disk: says whether the rest is of the same
        self._size = 0

    def fetch(self) -> None:
        """Blocks. Raises DownloadFailed, DownloadTooLarge, OSError of the disk."""
        with self._path.open("wb", buffering=0) as file:
            tries = 0
            while True:
                before = self._size
                problem = self._try(file.fileno())
                if problem is None:
                    return
                tries = tries + 1 if self._size <= before else 0
                if tries >= TRIES:
                    raise DownloadFailed(f"{shown(self._url)}: {problem}")
                time.sleep(PAUSE_S * 2**tries / 2)

    def _try(self, file: int) -> str | None:
        """What went wrong and may go well later; None when the file is complete."""
        try:
            answer = self._open()
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 416 and self._size:
                    self._restart(file)
                    return "the server has another file now"
                if error.code < 500 and error.code not in _LATER:
                    raise DownloadFailed(f"{shown(self._url)}: HTTP {error.code}") from error
                return f"HTTP {error.code}"
        except (OSError, http.client.HTTPException, ValueError) as error:
            return _reason(error)
        with answer:
            return self._take(file, answer)

    def _open(self) -> http.client.HTTPResponse:
        headers = {"Accept-Encoding": "identity", "User-Agent": "prominence"}
        if self._size and self._validator:
            headers |= {"Range": f"bytes={self._size}-", "If-Range": self._validator}
        request = urllib.request.Request(self._url, headers=headers)  # noqa: S310 - only http handlers
        answer: http.client.HTTPResponse = _opener().open(request, timeout=TIMEOUT_S)
        return answer

    def _take(self, file: int, answer: http.client.HTTPResponse) -> str | None:
        if answer.status == 206 and _range_start(answer.headers) != self._size:
            self._restart(file)
            return "the server sent another range than asked for"
        if answer.status != 206:
            self._restart(file)
        self._validator = _validator(answer.headers)
        length = answer.headers.get("Content-Length", "")
        total = self._size + int(length) if length.isdigit() else None
        if total is not None and total > self._limit_bytes:
            self._raise_too_large()
        problem = self._store(file, answer)
        if problem is None and total is not None and self._size != total:
            return "the connection broke"
        return problem

    def _store(self, file: int, answer: http.client.HTTPResponse) -> str | None:
        while True:
            try:
                block = answer.read1(BLOCK_BYTES)
            except (OSError, http.client.HTTPException) as error:
                return _reason(error)
            if not block:
                return None
            if self._size + len(block) > self._limit_bytes:
                self._raise_too_large()
            while block:
                written = os.write(file, block)
                self._size += written
                block = block[written:]

    def _restart(self, file: int) -> None:
        os.ftruncate(file, 0)
        os.lseek(file, 0, os.SEEK_SET)
        self._size = 0
        self._validator = ""

    def _raise_too_large(self) -> None:
        size = self._limit_bytes >> 20
        raise DownloadTooLarge(f"{shown(self._url)}: more than the job's disk of {size} MB")


def shown(url: str) -> str:
    """The address without user, password and query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"[:500]


def _validator(headers: Message) -> str:
    """What If-Range may say: a strong tag, or a date."""
    tag = headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified", "")


def _range_start(headers: Message) -> int:
    start = headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
    return int(start) if start.isdigit() else -1


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    return f"{type(reason).__name__}: {reason}"[:300]


def _opener() -> urllib.request.OpenerDirector:
    # Not build_opener(): that one also opens file:, ftp: and data: addresses.
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener
