"""A loopback HTTP server of files that misbehaves on request: breaks off, has no ranges, refuses."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self


class FileServer:
    """Put bytes into `files`; `breaks` is after how many bytes the next answers break off."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.breaks: list[int] = []
        self.statuses: list[int] = []
        self.ranges = True
        self.requests: list[str] = []  # the Range header of each
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(10)

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self._http.server_port}/{name}"

    def add(self, name: str, data: bytes) -> str:
        self.files[name] = data
        return self.url(name)


def _handler(server: FileServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range", "")
            server.requests.append(wanted)
            data = server.files.get(self.path.partition("?")[0].lstrip("/"))
            if server.statuses or data is None:
                self.send_response(server.statuses.pop(0) if server.statuses else 404)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
            if start and server.ranges:
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
                data = data[start:]
            else:
                self.send_response(200)
            self.send_header("ETag", '"one"')
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: server.breaks.pop(0)] if server.breaks else data)

        def log_message(self, *_: object) -> None:
            """Quiet."""

    return Handler
