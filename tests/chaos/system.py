"""The system under test, as production runs it, with everything between its parts in the harness's hands."""

import hashlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psycopg2
import redis

from prominence.embedded.data_dir import free_port
from prominence.embedded.processes import Command
from tests.chaos import machine
from tests.chaos.cable import Cable
from tests.chaos.parts import Keeper
from tests.chaos.proxy import HOST, Network, Proxy
from tests.processes import kill_processes_of
from tests.servers import PRODUCTION, PostgresServer, RedisServer
from tests.wait import wait_until
from worker.demo_registry import DemoRegistry

PROJECT = Path(__file__).resolve().parents[2]
SECRET_KEY = "chaos-" + "k" * 48
LEASE_S = 6.0
SETTINGS = {
    "PROMINENCE_LEASE_S": str(LEASE_S),
    "PROMINENCE_HEARTBEAT_S": "0.5",
    "PROMINENCE_REPUBLISH_S": "1",
    "PROMINENCE_ALLOW_PROCESS_RUNTIME": "1",
    "PROMINENCE_SECRET_KEY": SECRET_KEY,
}
CONTROL = {"scheduler": "scheduler", "ingest": "ingest", "control": "outbox,reconciler,workflows"}
SERVERS = ("api", *CONTROL)
NODE_CPUS = 5
DISK_MB = 200


@dataclass
class World:
    """What all schedules of a run share: PostgreSQL with a migrated template, a registry, a user's token.

    `cabled`: we are in a network namespace of our own, and each node gets one (see `cable.py`).
    `mutant`: the rule that servers do without (see `mutants.py`).
    """

    room: Path
    cabled: bool = False
    mutant: str = ""
    postgres: PostgresServer = field(init=False)
    registry: DemoRegistry = field(init=False)
    token: str = ""

    def __enter__(self) -> "World":
        self.room.chmod(0o755)
        self.postgres = PostgresServer(self.room / "postgres", durable=True)
        self.postgres.start()
        self.registry = DemoRegistry(self.room / "registry")
        self.registry.start()
        self.registry.push_demo_images()
        url = self.postgres.create_database("template")
        manage(["migrate", "-v", "0"], self.environment(self.room / "template", url))
        self.token = manage(["token", "alice"], self.environment(self.room / "template", url))
        return self

    def __exit__(self, *_: object) -> None:
        self.registry.stop()
        self.postgres.stop()

    @property
    def registry_port(self) -> int:
        return int(self.registry.url.rpartition(":")[2])

    def copy_database(self, name: str) -> str:
        with closing(psycopg2.connect(self.postgres.url("postgres"))) as connection:
            connection.autocommit = True
            connection.cursor().execute(f'CREATE DATABASE "{name}" TEMPLATE template')
        return self.postgres.url(name)

    def environment(self, data: Path, database_url: str) -> dict[str, str]:
        data.mkdir(exist_ok=True)
        return (
            outer_environment()
            | SETTINGS
            | {
                "PROMINENCE_DATA": str(data),
                "PROMINENCE_DATABASE_URL": database_url,
                "PROMINENCE_REGISTRY_MIRRORS": f"docker.io={self.registry.url}",
            }
        )


def outer_environment() -> dict[str, str]:
    foreign = ("PROMINENCE_", "DJANGO_", "PYTEST_")
    outer = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(foreign) and not name.lower().endswith("_proxy")
    }
    return outer | {"PYTHONUNBUFFERED": "1"}


def manage(words: list[str], environment: Mapping[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "manage.py", *words],
        env=dict(environment),
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@dataclass
class Node:
    """A machine of ours. `thaws`: when it was frozen and thawed (seconds since boot); the end is inf while frozen."""

    name: str
    data: Path
    api: Proxy
    redis: Proxy
    cable: Cable | None = None
    has_disk: bool = False
    was_full: bool = False
    busy_until: float = 0.0
    thaws: list[tuple[float, float]] = field(default_factory=list)


@dataclass
class System:
    """Start and end it; faults are in `faults.py`. `served`: ports of ours that jobs may want to reach."""

    world: World
    room: Path
    nodes_wanted: int = 4
    served: tuple[int, ...] = ()
    nodes: dict[str, Node] = field(default_factory=dict)
    retired: list[Node] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.room.mkdir()
        self.logs = self.room / "log"
        self.logs.mkdir()
        self.redis = RedisServer(self.room / "redis", backend=PRODUCTION)
        self.database_url = self.world.copy_database(self.room.name)
        self.network = Network()
        self.keeper = Keeper(self.logs)
        self.port = free_port()
        self.url = f"http://{HOST}:{self.port}/api/v1"
        self._numbers = 0
        self.halted: set[str] = set()  # databases that stand still

    def start(self) -> None:
        self.redis.start()
        environment = self.world.environment(self.room / "data", self.database_url) | {
            "PROMINENCE_REDIS_URL": self.redis.url,
            "PROMINENCE_URL": self.url,
        }
        for name, words in {
            "api": ["api", "--host", HOST, "--port", str(self.port)],
            **{name: ["control", "--only", only] for name, only in CONTROL.items()},
        }.items():
            mutant = self.world.mutant
            program = ("-m", "tests.chaos.mutants", mutant) if mutant else ("manage.py",)
            argv = (sys.executable, *program, *words)
            self.keeper.add(name, Command(argv=argv, env=environment, cwd=PROJECT))
        for _ in range(self.nodes_wanted):
            self.add_node()
        wait_until(self._is_up, 300, dump=self.dump)

    def stop(self) -> None:
        """End everything; nothing of it runs afterwards."""
        for node in [*self.nodes.values(), *self.retired]:
            if node.name in self.keeper.parts:
                self.keeper.send(node.name, signal.SIGKILL)
            machine.signal_all(node.data, signal.SIGKILL)
        for name in list(self.keeper.parts):
            self.keeper.end(name, signal.SIGKILL)
        for node in [*self.nodes.values(), *self.retired]:
            machine.signal_all(node.data, signal.SIGKILL)
        self.network.stop()
        for node in [*self.nodes.values(), *self.retired]:
            machine.unmount_disk(node.data)
            if node.cable:
                node.cable.close()
        self.redis.stop(signal.SIGKILL)
        kill_processes_of(self.room)

    # ---- nodes

    def add_node(self) -> Node:
        """One more machine, which enrols."""
        self._numbers += 1
        name = f"node-{self._numbers}"
        self.new_token(name)  # before anything is there: the database may be away
        data = self.room / name
        node = self._cabled(name, data) if self.world.cabled else self._uncabled(name, data)
        node.has_disk = machine.mount_disk(node.data, size_mb=DISK_MB)
        self.nodes[name] = node
        self.keeper.add(name, self._node_command(node))
        return node

    def _uncabled(self, name: str, data: Path) -> Node:
        own_redis = self.network.open(self.redis.port)
        rewrite = (f":{self.redis.port}/".encode(), f":{own_redis.port}/".encode())
        return Node(name, data, self.network.open(self.port, rewrite), own_redis)

    def _cabled(self, name: str, data: Path) -> Node:
        """In a network of its own, where what it is told of 127.0.0.1 is meant of our end of its cable."""
        cable = Cable(self._numbers, self.room)
        for port in (self.world.registry_port, *self.served):
            self.network.open(port, host=cable.ours)
        rewrite = (HOST.encode(), cable.ours.encode())
        api = self.network.open(self.port, rewrite, cable.ours)
        return Node(name, data, api, self.network.open(self.redis.port, host=cable.ours), cable)

    def new_token(self, name: str) -> None:
        """A one-time token for this node, as `manage.py node-token` makes it."""
        token = secrets.token_urlsafe(32)
        self.execute(
            "INSERT INTO clouds_site (name, region) VALUES ('chaos', '') ON CONFLICT DO NOTHING"
        )
        self.execute(
            "INSERT INTO clouds_node (name, site_id, key_hash) SELECT %s, id, '' FROM clouds_site "
            "WHERE name = 'chaos' ON CONFLICT DO NOTHING",
            name,
        )
        self.execute(
            "INSERT INTO clouds_enroltoken (token_hash, node_id, expires_at, used_by, refused_uses) "
            "SELECT %s, id, now() + interval '1 hour', '', 0 FROM clouds_node WHERE name = %s",
            hashlib.sha256(token.encode()).hexdigest(),
            name,
        )
        path = self.room / f"{name}-token"
        path.write_text(token)
        path.chmod(0o600)

    def _node_command(self, node: Node) -> Command:
        argv = (
            *(sys.executable, "-m", "worker"),
            *("--server", f"http://{node.api.host}:{node.api.port}"),
            *("--token-file", str(self.room / f"{node.name}-token"), "--data", str(node.data)),
            *("--node-cpus", str(NODE_CPUS), "--node-memory", "64", "--node-disk", "1024"),
        )
        return Command(
            argv=node.cable.inside(*argv) if node.cable else argv,
            env=outer_environment(),
            cwd=PROJECT,
            umask=0o022,
        )

    def kill_machine(self, node: Node) -> None:
        """Everything of it at once, as when the power goes."""
        self.keeper.hold(node.name, held=True)
        self.keeper.send(node.name, signal.SIGKILL)
        machine.signal_all(node.data, signal.SIGKILL)
        self.keeper.step()

    def retire(self, node: Node) -> None:
        """A machine that is gone for good."""
        self.kill_machine(node)
        self.keeper.remove(node.name)
        self.retired.append(self.nodes.pop(node.name))
        if node.cable:
            node.cable.close()
        shutil.rmtree(node.data, ignore_errors=True)

    # ---- servers and database

    def query(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        with closing(self._connect()) as connection:
            cursor = connection.cursor()
            cursor.execute(sql, values or None)
            return list(cursor.fetchall())

    def execute(self, sql: str, *values: object) -> None:
        with closing(self._connect()) as connection, connection:
            connection.cursor().execute(sql, values or None)

    def _connect(self) -> "psycopg2.extensions.connection":
        if "postgres" in self.halted:
            raise psycopg2.OperationalError("it stands still")
        return psycopg2.connect(self.database_url, connect_timeout=5)

    def counts(self) -> tuple[int, int]:
        """Jobs, and those that have not ended."""
        [row] = self.query(
            "SELECT count(*), count(*) FILTER (WHERE status IN ('pending', 'running')) FROM jobs_job"
        )
        return int(row[0]), int(row[1])

    def is_healthy(self) -> bool:
        with suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/health", trust_env=False).status_code == 204
        return False

    def restart_redis(self, *, number: signal.Signals, forget: bool) -> None:
        self.stop_redis(number, forget=forget)
        self.redis.start()

    def stop_redis(self, number: signal.Signals, *, forget: bool) -> None:
        self.redis.stop(number)
        if forget:
            shutil.rmtree(self.redis.directory / "appendonlydir", ignore_errors=True)
            (self.redis.directory / "users.acl").unlink(missing_ok=True)

    @property
    def redis_pid(self) -> int | None:
        """None while Redis is down or stands still."""
        process = self.redis.process
        return process.pid if process and "redis" not in self.halted else None

    @property
    def postgres_pid(self) -> int | None:
        """None while PostgreSQL is down or stands still."""
        process = self.world.postgres.process
        return process.pid if process and "postgres" not in self.halted else None

    def redis_client(self) -> "redis.Redis":
        if "redis" in self.halted:
            raise redis.ConnectionError("it stands still")
        return self.redis.client()

    def _is_up(self) -> bool:
        self.keeper.step()
        ready = "SELECT count(*) FROM clouds_incarnation WHERE status = 'ready'"
        time.sleep(0.2)
        return self.query(ready) == [(len(self.nodes),)] and self.is_healthy()

    def dump(self) -> str:
        return "\n".join(
            f"---- {log.name}\n{log.read_text(errors='replace')[-2000:]}"
            for log in sorted(self.logs.glob("*.log"))
        )
