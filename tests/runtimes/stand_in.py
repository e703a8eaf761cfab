"""A registry whose moods tests choose: slow, limiting, failing, with tokens. Speaks what pulls need, and no more."""

import base64
import gzip
import hashlib
import json
import threading
from collections import Counter, deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

from worker.image_maker import CONFIG_TYPE, LAYER_TYPE, BuiltImage
from worker.runtimes.base import Credential
from worker.runtimes.registry import DOCKER_MANIFEST

BEARER = "a-token-of-the-stand-in"


@dataclass(frozen=True, slots=True)
class Mood:
    """An answer to the next request for a manifest, whatever was asked."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)


class StandIn:
    """`push` images, then set `credential`, `gate` or `moods`; `asked` counts what was answered with 200."""

    def __init__(self) -> None:
        self.credential: Credential | None = None  # wanted by the token server
        self.gate = threading.Event()  # blobs wait for it
        self.gate.set()
        self.moods: deque[Mood] = deque()
        self.asked: Counter[str] = Counter()
        self.containers: dict[str, dict[str, str]] = {}  # of Singularity Hub
        self._store: dict[str, tuple[str, bytes]] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def push(self, image: BuiltImage, name: str) -> str:
        """As "repository:tag"; returns the digest."""
        repository, _, tag = name.rpartition(":")
        layer = gzip.compress(image.layer, 1, mtime=0)
        manifest = {
            "schemaVersion": 2,
            "mediaType": DOCKER_MANIFEST,
            "config": {"mediaType": CONFIG_TYPE, **self._blob(repository, image.config)},
            "layers": [{"mediaType": LAYER_TYPE, **self._blob(repository, layer)}],
        }
        body = json.dumps(manifest).encode()
        digest = _digest(body)
        for place in (tag, digest):
            self._store[f"/v2/{repository}/manifests/{place}"] = (DOCKER_MANIFEST, body)
        return digest

    def serve_file(self, name: str, data: bytes, etag: str = "") -> str:
        """A plain file; returns its URL."""
        self._store[f"/files/{name}"] = (f"application/octet-stream {etag}", data)
        return f"{self.url}/files/{name}"

    def pulls(self) -> int:
        """Layers given out."""
        return (
            sum(count for path, count in self.asked.items() if "GET" in path and "/blobs/" in path)
            // 2
        )

    def _blob(self, repository: str, data: bytes) -> dict[str, str | int]:
        digest = _digest(data)
        self._store[f"/v2/{repository}/blobs/{digest}"] = ("application/octet-stream", data)
        return {"digest": digest, "size": len(data)}

    def answer(self, path: str, authorization: str) -> tuple[int, dict[str, str], bytes]:
        if path.startswith("/api/container/"):
            found = self.containers.get(path.removeprefix("/api/container/"))
            return (200 if found else 404), {}, json.dumps(found).encode()
        if path.startswith("/token"):
            return self._token(authorization)
        if self.credential and authorization != f"Bearer {BEARER}":
            challenge = f'Bearer realm="{self.url}/token",service="stand-in",scope="pull"'
            return 401, {"WWW-Authenticate": challenge}, b"{}"
        if "/manifests/" in path and self.moods:
            mood = self.moods.popleft()
            return mood.status, mood.headers, b"{}"
        if "/blobs/" in path:
            self.gate.wait(60)
        kind, data = self._store.get(path, ("", b""))
        if not kind:
            return 404, {}, b"{}"
        kind, _, etag = kind.partition(" ")
        headers = {"Content-Type": kind} | ({"ETag": etag} if etag else {})
        if "/manifests/" in path:
            headers["Docker-Content-Digest"] = _digest(data)
        return 200, headers, data

    def _token(self, authorization: str) -> tuple[int, dict[str, str], bytes]:
        wanted = self.credential
        assert wanted is not None
        pair = base64.b64encode(f"{wanted.username}:{wanted.token}".encode()).decode()
        if authorization != f"Basic {pair}":
            return 401, {}, b"{}"
        return 200, {}, json.dumps({"token": BEARER}).encode()


def _handler(registry: StandIn) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _do(self) -> None:
            authorization = self.headers.get("Authorization", "")
            status, headers, body = registry.answer(self.path, authorization)
            if status == 200:
                registry.asked[f"{self.command} {self.path}"] += 1
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_HEAD = _do

        def log_message(self, *_: object) -> None:
            """Quiet."""

    return Handler


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
