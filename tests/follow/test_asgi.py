"""The application server: bodies, threads, connections, and its end."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.db.backends.signals import connection_created

from prominence import asgi
from prominence.tokens import issue_token
from tests.follow.conftest import ApiThread
from tests.follow.scene import Scene
from tests.follow.viewer import Viewer, Watch
from tests.servers import RedisServer
from tests.wait import wait_until

PROJECT = Path(__file__).resolve().parents[2]


def echo_length(environ: Any, start_response: Any) -> list[bytes]:
    """A WSGI application that says what it was given."""
    length = int(environ.get("CONTENT_LENGTH") or 0)
    body = environ["wsgi.input"].read(length)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{length} {len(body)} {sum(body) % 251}".encode()]


@pytest.fixture
def echo(api: ApiThread) -> str:
    api.application._django.app = echo_length
    return f"{api.site}/echo"


def _blocks(size: int) -> Iterator[bytes]:
    for start in range(0, size, 1 << 16):
        yield b"z" * min(1 << 16, size - start)


@pytest.mark.parametrize("size", [0, 1, 1 << 16, (3 << 20) + 7])
def test_bodies_arrive_whole_with_a_length_chunked_or_not(echo: str, size: int) -> None:
    expected = f"{size} {size} {size * ord('z') % 251}"
    assert httpx.post(echo, content=b"z" * size).text == expected
    assert httpx.post(echo, content=_blocks(size)).text == expected


def test_length_over_the_limit_is_refused_at_once(echo: str) -> None:
    with socket.create_connection(("127.0.0.1", httpx.URL(echo).port)) as raw:
        raw.settimeout(5)
        raw.sendall(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 67108865\r\n\r\n")
        answer = b""
        while b"}" not in answer:
            answer += raw.recv(65536)
    assert b"413" in answer.split(b"\r\n")[0]
    assert b'{"error": ' in answer


def test_chunked_body_over_the_limit_is_cut(echo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asgi, "BODY_BYTES", 1 << 20)
    assert httpx.post(echo, content=_blocks(1 << 20)).status_code == 200
    answer = httpx.post(echo, content=_blocks((1 << 20) + 1))
    assert (answer.status_code, "error" in answer.json()) == (413, True)


def test_half_a_body_reaches_no_view(echo: str, api: ApiThread) -> None:
    called = []
    api.application._django.app = lambda *args: called.append(1) or echo_length(*args)
    with socket.create_connection(("127.0.0.1", httpx.URL(echo).port)) as raw:
        raw.sendall(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf")
    assert httpx.get(echo).status_code == 200
    assert called == [1]


def test_slow_uploads_hold_no_thread(echo: str) -> None:
    port = httpx.URL(echo).port
    slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
    try:
        for raw in slow:
            raw.sendall(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf")
        assert httpx.get(echo, timeout=5).status_code == 200
    finally:
        for raw in slow:
            raw.close()


def test_head_has_no_body(api: ApiThread) -> None:
    with httpx.Client(base_url=api.site) as client:
        answer = client.head("/api/v1/no-such-path")
        assert answer.status_code in {401, 404}
        assert answer.content == b""
        assert client.get("/api/v1/no-such-path").status_code == answer.status_code


@contextmanager
def _connections_made() -> Iterator[list[tuple[str, Any]]]:
    """(thread, connection) of every database connection that is opened meanwhile."""
    made: list[tuple[str, Any]] = []

    def note(connection: Any, **_: Any) -> None:
        made.append((threading.current_thread().name, connection))

    connection_created.connect(note)
    yield made
    connection_created.disconnect(note)


def test_requests_reuse_threads_and_connections(api: ApiThread, viewer: Viewer) -> None:
    with _connections_made() as made, ThreadPoolExecutor(16) as pool:
        with httpx.Client(base_url=api.site, headers=viewer.headers) as client:
            answers = list(pool.map(lambda _: client.get("/api/v1/jobs").status_code, range(100)))
        assert answers == [200] * 100
    names = [name for name, _ in made if name.startswith("WSGI")]
    assert 0 < len(names) == len(set(names)) <= settings.CONFIG.api_threads


def test_waiting_followers_hold_no_database_connection(
    api: ApiThread, viewer: Viewer, scene: Scene
) -> None:
    api.application.events.hub._check_s = 60.0
    scene.run()
    with _connections_made() as made:
        watches = [Watch(viewer, scene.job.pk) for _ in range(10)]
        wait_until(lambda: all(len(watch.transcript.states) == 2 for watch in watches))
        ours = [one for name, one in made if name.startswith("follow")]
        assert ours
        wait_until(lambda: all(one.connection is None for one in ours))
    scene.end()
    for watch in watches:
        watch.result()


class ApiProcess:
    """`manage.py api` on the test's database and Redis."""

    def __init__(self, directory: Path, *words: str) -> None:
        self.ready = directory / "ready"
        self.log = directory / "api.log"
        environment = os.environ | {"PROMINENCE_DATABASE_URL": _database_url()}
        if not environment["PROMINENCE_DATABASE_URL"]:
            # SQLite has no URL: the file of the test database under the name that the server looks for.
            data = directory / "data"
            data.mkdir()
            (data / "prominence.sqlite3").symlink_to(settings.DATABASES["default"]["NAME"])
            settings.CONFIG.objects_dir.mkdir(parents=True, exist_ok=True)
            (data / "objects").symlink_to(settings.CONFIG.objects_dir)
            key = settings.CONFIG.secret_key
            environment |= {"PROMINENCE_DATA": str(data), "PROMINENCE_SECRET_KEY": key}
        argv = [sys.executable, "manage.py", "api", "--port", "0", "--ready-file", str(self.ready)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*argv, *words], cwd=PROJECT, env=environment, stdout=log, stderr=log
            )
        wait_until(self._is_ready, 30, dump=self.log.read_text)
        self.site = f"http://127.0.0.1:{self.ready.read_text().strip()}"

    def _is_ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        return self.ready.exists()


def _database_url() -> str:
    own = settings.DATABASES["default"]
    if own["ENGINE"].endswith("sqlite3"):
        return ""
    return f"postgresql://{own['USER']}:{own['PASSWORD']}@{own['HOST']}:{own['PORT']}/{own['NAME']}"


@pytest.fixture
def process(
    transactional_db: None, redis_server: RedisServer, tmp_path: Path
) -> Iterator[ApiProcess]:
    process = ApiProcess(tmp_path)
    yield process
    process.process.kill()
    process.process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_server_ends_soon_with_open_streams(
    process: ApiProcess, owner: User, scene: Scene, number: signal.Signals
) -> None:
    scene.run().stdout.write(b"x" * 3_000_000)
    viewer = Viewer(process.site, issue_token("alice", valid_s=60))
    with viewer.open(scene.job.pk) as reading, viewer.open(scene.job.pk) as stuck:
        assert next(stuck).event == "state"  # and reads no further
        told = [next(reading) for _ in range(2)]
        began = time.monotonic()
        process.process.send_signal(number)
        assert process.process.wait(10) == 0, process.log.read_text()
        assert time.monotonic() - began < 3
    assert told
    assert "Traceback" not in process.log.read_text()
    assert f"API at {process.site}/api/v1\n" in process.log.read_text()


def test_port_in_use_is_an_error_of_one_line(process: ApiProcess) -> None:
    port = process.site.rpartition(":")[2]
    done = subprocess.run(
        [sys.executable, "manage.py", "api", "--port", port],
        cwd=PROJECT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "cannot listen on 127.0.0.1" in done.stderr
    assert "Traceback" not in done.stderr
