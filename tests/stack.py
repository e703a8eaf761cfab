"""A whole system as production runs it: API, control plane and nodes as processes of their own, on either back end.

Owns those processes and their directory. Times are short, so that what takes minutes in production takes seconds here.
"""

import itertools
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psycopg2

from jobs.states import ACTIVE, TERMINAL
from prominence.embedded.data_dir import free_port
from prominence.embedded.processes import Command, signal_group, spawn
from tests.processes import kill_processes_of
from tests.servers import BACKEND, HOST, PRODUCTION, PostgresServer, RedisServer, run
from tests.sse import ServerSentEvent, read_events
from tests.wait import wait_until

PROJECT = Path(__file__).resolve().parent.parent
START_TIMEOUT_S = 40
STOP_TIMEOUT_S = 15
LOG_TAIL = 4000
_numbers = itertools.count(1)

QUICK_SETTINGS = {
    "PROMINENCE_LEASE_S": "6",
    "PROMINENCE_HEARTBEAT_S": "0.5",
    "PROMINENCE_REPUBLISH_S": "1",
}


@dataclass
class Stack:
    """Start it with `start` or as a context manager. Parts: `api`, `control`, `worker`, `node-1`, `node-2` …"""

    directory: Path
    nodes: int = 1
    node_cpus: int = 64
    mirror: str = ""
    postgres: PostgresServer | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    loops: tuple[str, ...] = ()  # each in a process named after it, in place of `control`

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True)
        self.data = self.directory / "data"
        self.logs = self.directory / "log"
        for directory in (self.data, self.logs):
            directory.mkdir()
        self.redis = RedisServer(self.directory / "redis")
        self.port = free_port()
        self.site = f"http://{HOST}:{self.port}"
        self.url = f"{self.site}/api/v1"
        self.database_url = ""
        self._commands: dict[str, Command] = {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._tokens: dict[str, str] = {}

    def __enter__(self) -> "Stack":
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start everything; returns when the API reports health. Nodes may still be enrolling."""
        self.redis.start()
        self._make_database()
        self._commands["api"] = self._server("api", "--host", HOST, "--port", str(self.port))
        self._commands["worker"] = self._server("worker")
        self.restart("api")
        for part in self.loops:
            self._commands[part] = self._server("control", "--only", part)
            self.restart(part)
        if not self.loops:
            self.start_control()
        self.restart("worker")
        for _ in range(self.nodes):
            self.add_node()
        wait_until(self.is_healthy, START_TIMEOUT_S, dump=self.dump)

    def stop(self) -> None:
        """End everything, nodes with their jobs; nothing of this stack runs afterwards."""
        nodes = [name for name in self._processes if name.startswith("node-")]
        for name in nodes:
            self._processes[name].send_signal(signal.SIGQUIT)
        for name in [*nodes, *(name for name in self._processes if name not in nodes)]:
            if name not in nodes:
                self._processes[name].terminate()
            self._end(name)
        self.redis.stop()
        kill_processes_of(self.directory)

    def start_control(self, *words: str) -> None:
        """Start the control plane; `words` are options of `manage.py control`."""
        self._commands["control"] = self._server("control", *words)
        self.restart("control")

    def add_node(self, **environment: str) -> str:
        """Start one more node and return its name."""
        name = f"node-{1 + sum(part.startswith('node-') for part in self._commands)}"
        token = self.directory / f"{name}-token"
        token.write_text(self.manage("node-token", name, "--site", "test"))
        token.chmod(0o600)
        self._commands[name] = Command(
            argv=(
                *(sys.executable, "-m", "worker", "--server", self.site),
                *("--token-file", str(token), "--data", str(self.node_data(name))),
                *("--node-cpus", str(self.node_cpus), "--node-memory", "128"),
                *("--node-disk", "1024"),
            ),
            env=_outer_environment() | environment,
            cwd=PROJECT,
            umask=0o022,
        )
        self.restart(name)
        return name

    def node_data(self, name: str) -> Path:
        return self.directory / name

    # ---- faults

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Signal one part's main process, and wait for its end unless it is only stopped or continued."""
        self._processes[name].send_signal(number)
        if number not in {signal.SIGSTOP, signal.SIGCONT}:
            self._end(name)

    def restart(self, name: str) -> None:
        """Start a part that is not running."""
        self._processes[name] = spawn(self._commands[name], self.logs / f"{name}.log")

    def pid(self, name: str) -> int:
        return self._processes[name].pid

    def flush_redis(self) -> None:
        """Redis loses everything but our own user."""
        self.redis.flush()

    # ---- use

    def token(self, user: str = "alice", *words: str) -> str:
        """An API token of a user; `words` are further options of `manage.py token`."""
        key = " ".join([user, *words])
        if key not in self._tokens:
            self._tokens[key] = self.manage("token", user, *words)
        return self._tokens[key]

    def client(self, user: str = "alice") -> httpx.Client:
        """An HTTP client of the API with the user's token: `client.get("/jobs")`."""
        return httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {self.token(user)}"},
            timeout=30,
            trust_env=False,
        )

    def submit(self, document: Mapping[str, Any], user: str = "alice") -> int:
        """Submit a job and return its id."""
        with self.client(user) as client:
            answer = client.post("/jobs", json=document)
        assert answer.status_code == 201, answer.text
        return int(answer.json()["id"])

    def describe(self, job: int, user: str = "alice") -> dict[str, Any]:
        with self.client(user) as client:
            answer = client.get(f"/jobs/{job}")
        assert answer.status_code == 200, answer.text
        (description,) = answer.json()
        return dict(description)

    def output(self, job: int, stream: str = "stdout", user: str = "alice") -> str:
        with self.client(user) as client:
            answer = client.get(f"/jobs/{job}/{stream}")
        assert answer.status_code == 200, answer.text
        return answer.text

    def follow(
        self, job: int, last_event_id: str | None = None, user: str = "alice"
    ) -> Iterator[ServerSentEvent]:
        """The job's server-sent events as they arrive, to the end of the stream."""
        headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
        with (
            self.client(user) as client,
            client.stream("GET", f"/jobs/{job}/events", headers=headers) as answer,
        ):
            assert answer.status_code == 200, answer.read()
            yield from read_events(answer.iter_bytes())

    def wait_status(
        self, job: int, *statuses: str, user: str = "alice", timeout: float = 60
    ) -> dict[str, Any]:
        """The job's description once its status is one of these; fails when it ended otherwise."""

        def reached() -> dict[str, Any] | None:
            found = self.describe(job, user)
            if found["status"] in statuses:
                return found
            assert found["status"] in ACTIVE, f"{found}\n{self.dump()}"
            return None

        return wait_until(
            reached, timeout, dump=lambda: f"{self.describe(job, user)}\n{self.dump()}"
        )

    def wait_job(self, job: int, user: str = "alice", timeout: float = 60) -> dict[str, Any]:
        """The job's description once it has ended, however."""
        return self.wait_status(job, *TERMINAL, user=user, timeout=timeout)

    def is_healthy(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", trust_env=False).status_code == 204
        except httpx.HTTPError:
            return False

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Rows straight from the database: for what the API does not show."""
        if self.database_url:
            with closing(psycopg2.connect(self.database_url)) as connection:
                cursor = connection.cursor()
                cursor.execute(sql)
                return list(cursor.fetchall())
        path = self.data / "prominence.sqlite3"
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=20)) as connection:
            return connection.execute(sql).fetchall()

    def manage(self, *words: str) -> str:
        """The output of a management command."""
        done = subprocess.run(
            [sys.executable, "manage.py", *words],
            env=self.environment(),
            cwd=PROJECT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def environment(self) -> dict[str, str]:
        """Of its server processes."""
        own = {
            "PROMINENCE_DATA": str(self.data),
            "PROMINENCE_REDIS_URL": self.redis.url,
            "PROMINENCE_URL": self.url,
        }
        if self.database_url:
            own["PROMINENCE_DATABASE_URL"] = self.database_url
        if self.mirror:
            own["PROMINENCE_REGISTRY_MIRRORS"] = f"docker.io={self.mirror}"
        return _outer_environment() | QUICK_SETTINGS | own | dict(self.settings)

    def dump(self) -> str:
        """The tails of all logs: what a failing test shows."""
        tails = []
        for log in sorted(self.logs.glob("*.log")):
            tails.append(f"---- {log.name}\n{log.read_text(errors='replace')[-LOG_TAIL:]}")
        return "\n".join(tails)

    # ---- inside

    def _server(self, *words: str) -> Command:
        argv = (sys.executable, "manage.py", *words)
        return Command(argv=argv, env=self.environment(), cwd=PROJECT)

    def _make_database(self) -> None:
        """An empty, migrated database; migrated once per session, then copied."""
        if BACKEND == PRODUCTION:
            assert self.postgres, "on this back end a stack needs a PostgreSQL"
            self.database_url = self.postgres.create_database(f"stack{next(_numbers)}")
        template = self.directory.parent / "migrated.sqlite3"
        if template.exists() and not self.database_url:
            shutil.copy(template, self.data / "prominence.sqlite3")
            return
        run(
            [sys.executable, "manage.py", "migrate", "-v", "0"],
            env=self.environment(),
            cwd=PROJECT,
        )
        if not self.database_url:
            shutil.copy(self.data / "prominence.sqlite3", template)

    def _end(self, name: str) -> None:
        process = self._processes.pop(name)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            signal_group(process.pid, signal.SIGKILL)
            process.wait(STOP_TIMEOUT_S)


def _outer_environment() -> dict[str, str]:
    outer = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PROMINENCE_", "DJANGO_", "PYTEST_"))
    }
    return outer | {"PYTHONUNBUFFERED": "1"}
