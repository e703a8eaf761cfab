"""A small HTTP server that jobs talk to: it counts what they did and holds them until the test lets them go."""

import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Gate:
    """`GET /note/WORD` counts WORD; `GET /go` is 200 once the gate is open, 404 before. On a free loopback port."""

    def __init__(self) -> None:
        self.notes: Counter[str] = Counter()
        self._open = threading.Event()
        self._lock = threading.Lock()
        gate = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(gate.answer(self.path))
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> "Gate":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def answer(self, path: str) -> int:
        with self._lock:
            if path == "/go":
                return 200 if self._open.is_set() else 404
            self.notes[path.removeprefix("/note/")] += 1
            return 200

    def open(self) -> None:
        self._open.set()

    def held_job(self, *, runtime: str = "singularity", cpus: int = 1) -> dict[str, object]:
        """A job that notes `begun-ID`, waits for the gate, notes `done-ID` and prints a line."""
        get = f"wget -q -O /dev/null {self.url}"
        script = (
            f"{get}/note/begun-$PROMINENCE_JOB_ID; until {get}/go 2>/dev/null; do sleep 0.2; done; "
            f"{get}/note/done-$PROMINENCE_JOB_ID; echo done $PROMINENCE_JOB_ID"
        )
        return {
            "resources": {"cpus": cpus, "memory": 1, "disk": 1},
            "tasks": [
                {"image": "busybox", "runtime": runtime, "cmd": "sh", "args": ["-c", script]}
            ],
        }
