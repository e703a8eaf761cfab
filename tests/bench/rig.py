"""The system under test as production runs it, and the ways in which benchmarks load and watch it.

PostgreSQL with fsync, Redis with its append-only file (everysec), one API process, the control plane with its Celery
worker, and a node with two slots. Lease, heartbeat and republication are the defaults.
"""

import itertools
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import psycopg2

from prominence.bus import WAKE, Queued
from tests.bench import meter
from tests.servers import PostgresServer
from tests.stack import PROJECT, Stack
from tests.wait import wait_until

SLOTS = 2
USER = "alice"
TEMPLATE_TIMEOUT_S = 60
HINT_JOBS = 500
SETTINGS = {
    "PROMINENCE_LEASE_S": "600",
    "PROMINENCE_HEARTBEAT_S": "10",
    "PROMINENCE_REPUBLISH_S": "5",
    "PROMINENCE_ALLOW_PROCESS_RUNTIME": "1",
}
COPIED = ("jobs_attempt", "jobs_event", "jobs_label", "jobs_output")


def job_document(program: str, *args: str, **fields: Any) -> dict[str, Any]:
    """A job of one CPU without a container."""
    return {
        "name": "bench",
        "resources": {"cpus": 1, "memory": 1, "disk": 1, "nodes": 1},
        "tasks": [{"image": "none", "runtime": "process", "cmd": program, "args": list(args)}],
    } | fields


@dataclass
class Rig:
    """A context manager: everything runs inside, nothing after it. The room must be open to other users."""

    room: Path
    nodes: int = 1
    mirror: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)

    def __enter__(self) -> "Rig":
        self.room.mkdir(exist_ok=True)
        self.room.chmod(0o755)
        self.postgres = PostgresServer(self.room / "postgres", durable=True, fsync=True)
        self.postgres.start()
        self.stack = Stack(
            self.room / "stack",
            nodes=self.nodes,
            node_cpus=SLOTS,
            mirror=self.mirror,
            postgres=self.postgres,
            settings=SETTINGS | dict(self.settings),
        )
        try:
            self.stack.start()
            wait_until(self._nodes_are_ready, 60, dump=self.stack.dump)
        except BaseException:
            self.__exit__()
            raise
        self.connection = psycopg2.connect(self.stack.database_url)
        self.connection.autocommit = True
        return self

    def __exit__(self, *_: object) -> None:
        if hasattr(self, "connection"):
            self.connection.close()
        self.stack.stop()
        self.postgres.stop()

    def _nodes_are_ready(self) -> bool:
        ready = "SELECT count(*) FROM clouds_incarnation WHERE status = 'ready'"
        return bool(self.stack.query(ready) == [(self.nodes,)])

    # ---- load

    def sql(self, text: str, *values: object) -> list[tuple[Any, ...]]:
        with closing(self.connection.cursor()) as cursor:
            cursor.execute(text, values or None)
            return list(cursor.fetchall()) if cursor.description else []

    def submit(self, document: Mapping[str, Any], user: str = USER) -> int:
        return self.stack.submit(document, user)

    def warm_up(self, document: Mapping[str, Any], jobs: int = 20) -> None:
        """Run some jobs of the kind, so that it is known to be short."""
        with self.stack.client(USER) as client:
            for _ in range(jobs):
                assert client.post("/jobs", json=document).status_code == 201
        self.wait_drained()

    @contextmanager
    def held_scheduler(self) -> Iterator[None]:
        """The control plane stands still inside: jobs gather, as if they came while it was busy. Keep it short."""
        self.stack.kill("control", signal.SIGSTOP)
        try:
            yield
        finally:
            self.stack.kill("control", signal.SIGCONT)

    def add_pending(self, document: Mapping[str, Any], count: int) -> None:
        """As many waiting jobs like this one, hints included. Call while the scheduler is held."""
        first = self.submit(document)
        ids = self.copy_job(first, count - 1)
        fields = "owner_id, shape, priority, id, kind"
        rows = self.sql(f"SELECT {fields} FROM jobs_job WHERE id = ANY(%s) ORDER BY id", ids)
        with self.stack.redis.client() as client:
            for start in range(0, len(rows), HINT_JOBS):
                jobs = [Queued(*row) for row in rows[start : start + HINT_JOBS]]
                client.xadd(WAKE, {"d": msgspec.json.encode(jobs)})

    def copy_job(self, job: int, count: int) -> list[int]:
        """`count` more rows like this job's, with its first event; columns added later come along."""
        columns = self._columns("jobs_job")
        ids = self.sql(
            f"INSERT INTO jobs_job ({columns}) SELECT {columns} FROM jobs_job, "
            "generate_series(1, %s) WHERE id = %s RETURNING id",
            count,
            job,
        )
        columns = self._columns("jobs_event", "job_id")
        self.sql(
            f"INSERT INTO jobs_event (job_id, {columns}) SELECT other, {columns} FROM jobs_event, "
            "unnest(%s) AS other WHERE job_id = %s",
            [row[0] for row in ids],
            job,
        )
        return [row[0] for row in ids]

    def _columns(self, table: str, *without: str) -> str:
        rows = self.sql(
            "SELECT column_name FROM information_schema.columns WHERE table_name = %s", table
        )
        return ", ".join(f'"{row[0]}"' for row in rows if row[0] not in {"id", *without})

    def run_pending(self, document: Mapping[str, Any], count: int, timeout_s: float) -> "Drain":
        """Let `count` jobs gather, then measure until the last one's terminal state is stored."""
        with self.held_scheduler():
            self.add_pending(document, count)
            [[last_before]] = self.sql("SELECT coalesce(max(id), 0) FROM jobs_job WHERE NOT queued")
            [[begun]] = self.sql("SELECT clock_timestamp()")
            before = self.spent()
            clock = time.monotonic()
        self.wait_drained(timeout_s)
        wall_s = time.monotonic() - clock
        spent = meter.difference(self.spent(), before)
        ends = self.sql(
            "SELECT extract(epoch FROM ended_at - %s)::float FROM jobs_job "
            "WHERE id > %s AND ended_at >= %s ORDER BY ended_at",
            begun,
            last_before,
            begun,
        )
        badly = "SELECT count(*) FROM jobs_job WHERE status <> 'completed' OR outcome <> 'well'"
        assert self.sql(badly) == [(0,)], "some jobs did not end well"
        assert len(ends) == count, f"{len(ends)} ends of {count} jobs"
        return Drain(count=count, wall_s=wall_s, spent=spent, ends_s=[row[0] for row in ends])

    def wait_drained(self, timeout_s: float = 60.0) -> None:
        """Until no job of the benchmarks' user is pending or running."""
        left = (
            "SELECT EXISTS (SELECT FROM jobs_job JOIN auth_user u ON u.id = owner_id "
            "WHERE u.username = %s AND status IN ('pending', 'running'))"
        )
        pause, deadline = threading.Event(), time.monotonic() + timeout_s
        while self.sql(left, USER) == [(True,)]:
            if time.monotonic() > deadline:
                raise TimeoutError(f"jobs are left after {timeout_s} s\n{self.stack.dump()}")
            pause.wait(0.03)

    def run_control(self, only: str) -> None:
        """Run the control plane anew with some of its parts; "" means all."""
        self.stack.kill("control", signal.SIGTERM)
        self.stack.start_control(*(["--only", only] if only else []))

    def ask_inside(self, *words: str) -> Any:
        """The answer of `tests.bench.inside`."""
        done = subprocess.run(
            [sys.executable, "-m", "tests.bench.inside", *words],
            env=self.stack.environment() | {"DJANGO_SETTINGS_MODULE": "prominence.settings"},
            cwd=PROJECT,
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
        if done.returncode:
            raise RuntimeError(done.stderr[-3000:])
        return json.loads(done.stdout)

    # ---- watch

    def pids(self) -> dict[str, list[int]]:
        """Processes by part; `shims and jobs` are those below the node's spawner now."""
        table = meter.children()
        assert self.postgres.process
        assert self.stack.redis.process
        parts = {
            "api": tree_of(self.stack.pid("api"), table),
            "control": tree_of(self.stack.pid("control"), table),
            "control worker": tree_of(self.stack.pid("worker"), table),
            "postgres": tree_of(self.postgres.process.pid, table),
            "redis": [self.stack.redis.process.pid],
        }
        if self.nodes:
            worker = self.stack.pid("node-1")
            parts["node worker"] = [worker]
            parts["shims and jobs"] = tree_of(worker, table)[1:]
        return parts

    def spent(self) -> meter.Spent:
        """CPU seconds by part so far, ended children included."""
        parts = self.pids()
        spent = {name: sum(map(meter.cpu_s, pids)) for name, pids in parts.items()}
        if self.nodes:  # what the worker itself waited for is its spawner's business
            own = meter.cpu_s(self.stack.pid("node-1"), with_ended=False)
            spent["shims and jobs"] += spent["node worker"] - own
            spent["node worker"] = own
        return spent

    def pss_mb(self) -> dict[str, float]:
        """Memory by part; `node` is the worker with its spawner and shims."""
        parts = self.pids()
        memory = {name: meter.pss_mb(pids) for name, pids in parts.items()}
        if self.nodes:
            memory["node"] = memory.pop("node worker") + memory.pop("shims and jobs")
        return memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """A backlog that was worked off: `ends_s` are the times of the ends, `spent` CPU seconds by part."""

    count: int
    wall_s: float
    spent: meter.Spent
    ends_s: Sequence[float]

    @property
    def rate(self) -> float:
        return self.count / self.wall_s

    def cpu_ms(self) -> dict[str, float]:
        """Per job, by part."""
        return {name: 1e3 * seconds / self.count for name, seconds in self.spent.items()}

    def rate_per_thousand(self) -> list[float]:
        """Jobs a second over each thousand of ends."""
        marks = [0.0, *self.ends_s[999::1000]]
        return [1000 / (after - before) for before, after in itertools.pairwise(marks)]


def tree_of(pid: int, table: Mapping[int, list[int]]) -> list[int]:
    return meter.tree(pid, table)
