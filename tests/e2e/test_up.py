"""`manage.py up`: one command, everything with it, nothing after it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from prominence.embedded.processes import Command, spawn
from tests.processes import kill_processes_of, processes_of
from tests.servers import BACKEND, EMBEDDED
from tests.wait import wait_until

PROJECT = Path(__file__).resolve().parent.parent.parent
pytestmark = pytest.mark.skipif(BACKEND != EMBEDDED, reason="it brings its own back end")
PARTS = ("valkey", "api", "control", "worker", "node-local-1")
SLEEP = {
    "image": "busybox",
    "cmd": "sh -c 'echo begun; sleep 300'",
}


class Up:
    """A running `manage.py up` on `data`."""

    def __init__(self, data: Path, *options: str) -> None:
        self.data = data
        self.log = data.with_name(f"{data.name}-up.log")
        self.log.unlink(missing_ok=True)
        argv = (sys.executable, "manage.py", "up", "--data", str(data), "--port", "0", *options)
        outer = {k: v for k, v in os.environ.items() if not k.startswith(("PROMINENCE_", "DJANGO"))}
        self.process = spawn(Command(argv=argv, env=outer, cwd=PROJECT), self.log)

    def wait_ready(self) -> "Up":
        wait_until(self._is_ready, 60, dump=self.log.read_text)
        return self

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(40)

    def pid(self, part: str) -> int:
        return int((self.data / "run" / f"{part}.pid").read_text())

    def client(self) -> httpx.Client:
        token = self._manage("token", "alice")
        return httpx.Client(
            base_url=(self.data / "run" / "url").read_text(),
            headers={"Authorization": f"Bearer {token}"},
            trust_env=False,
        )

    def run_sleeper(self) -> int:
        """Submit a job that runs for minutes, and return its id once it has written something."""
        with self.client() as client:
            job = client.post("/jobs", json={"tasks": [SLEEP]}).json()["id"]
            wait_until(
                lambda: "begun" in client.get(f"/jobs/{job}/stdout").text,
                60,
                dump=lambda: json.dumps(client.get(f"/jobs/{job}").json()) + self.logs(),
            )
        return int(job)

    def describe(self, job: int) -> dict[str, Any]:
        with self.client() as client:
            return dict(client.get(f"/jobs/{job}").json()[0])

    def logs(self) -> str:
        logs = sorted((self.data / "log").glob("*.log"))
        return "\n".join(f"---- {log.name}\n{log.read_text()[-3000:]}" for log in logs)

    def _is_ready(self) -> bool:
        text = self.log.read_text()
        assert self.process.poll() is None, text
        return "ready after" in text and "  logs" in text

    def _manage(self, *words: str) -> str:
        return subprocess.run(
            [sys.executable, "manage.py", *words, "--data", str(self.data)],
            cwd=PROJECT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()


Starter = Callable[..., Up]


@pytest.fixture
def start(room: Path) -> Iterator[Starter]:
    """Starts `up` on one and the same data directory; ends all of them after the test."""
    started = []

    def begin(*options: str) -> Up:
        started.append(Up(room / "data", *options))
        return started[-1]

    yield begin
    for up in started:
        if up.process.poll() is None:
            up.end()
    kill_processes_of(room)


def test_everything_starts_and_a_signal_leaves_nothing(start: Starter, room: Path) -> None:
    up = start().wait_ready()
    with up.client() as client:
        assert client.get("/health").status_code == 204
    assert all(up.pid(part) in processes_of(room) for part in PARTS)

    assert up.end() == 0

    assert not processes_of(room)


def test_a_signal_ends_running_jobs_too(start: Starter, room: Path) -> None:
    up = start("--demo-images").wait_ready()
    up.run_sleeper()

    assert up.end(signal.SIGINT) == 0

    assert not processes_of(room)


def test_a_second_start_on_the_same_directory_is_refused(start: Starter) -> None:
    first = start("--local-nodes", "0").wait_ready()

    second = start("--local-nodes", "0")

    second.log = first.log
    assert second.process.wait(20) == 1
    assert f"process {first.process.pid}" in first.log.read_text()
    assert first.process.poll() is None


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_crashed_is_started_again(start: Starter, part: str) -> None:
    up = start().wait_ready()
    before = up.pid(part)

    os.kill(before, signal.SIGKILL)

    wait_until(lambda: up.pid(part) != before, 10, dump=up.logs)
    with up.client() as client:
        wait_until(lambda: _is_healthy(client), 20, dump=up.logs)


def test_after_a_kill_its_parts_end_and_the_next_start_takes_the_jobs_over(
    start: Starter,
) -> None:
    up = start("--demo-images").wait_ready()
    job = up.run_sleeper()
    pids = {part: up.pid(part) for part in PARTS}

    up.process.kill()
    up.process.wait()

    wait_until(lambda: not any(_is_alive(pid) for pid in pids.values()), 20)
    again = start("--demo-images").wait_ready()
    assert again.describe(job)["status"] == "running"
    with again.client() as client:
        assert client.delete(f"/jobs/{job}").status_code == 200
        wait_until(lambda: again.describe(job)["status"] == "deleted", 30, dump=again.logs)


def _is_healthy(client: httpx.Client) -> bool:
    try:
        return client.get("/health").status_code == 204
    except httpx.HTTPError:
        return False


def _is_alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
