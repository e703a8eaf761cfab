"""Real servers for tests: PostgreSQL and Redis, or the embedded pair, each in a directory of its own on loopback.

Owns starting and ending them; `tests/setup/` installs the programs.
"""

import hashlib
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psycopg2
import redis

from prominence.embedded.data_dir import free_port
from prominence.embedded.processes import Command, spawn
from prominence.embedded.valkey import find_program
from tests.wait import wait_until

HOST = "127.0.0.1"
EMBEDDED, PRODUCTION = "embedded", "production"
BACKEND = os.environ.get("PROMINENCE_TEST_BACKEND", EMBEDDED)
if BACKEND not in {EMBEDDED, PRODUCTION}:
    raise RuntimeError(f"PROMINENCE_TEST_BACKEND is {BACKEND}: use {EMBEDDED} or {PRODUCTION}")


def run(argv: Sequence[object], **options: object) -> None:
    """Run a command to its end; its output is in the error when it fails."""
    words = [str(word) for word in argv]
    done = subprocess.run(words, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    if done.returncode:
        raise RuntimeError(f"{words} ended with {done.returncode}:\n{done.stdout}{done.stderr}")


@dataclass
class RedisServer:
    """A server with ACLs; user `server` may do everything, `default` nothing.

    Production tests use Debian's redis-server, embedded ones the bundled Valkey.
    """

    directory: Path
    backend: str = BACKEND
    port: int = field(default_factory=free_port)
    password: str = "server-password"
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://server:{self.password}@{HOST}:{self.port}/0"

    def start(self) -> None:
        """Start, with the data of an earlier start; returns when it answers."""
        self.directory.mkdir(parents=True, exist_ok=True)
        acl = self.directory / "users.acl"
        if not acl.exists():
            digest = hashlib.sha256(self.password.encode()).hexdigest()
            acl.write_text(f"user default off\nuser server on #{digest} ~* &* +@all\n")
        argv = [
            *(_redis_program(self.backend), "--bind", HOST, "--port", self.port),
            *("--dir", self.directory, "--aclfile", acl, "--appendonly", "yes", "--save", ""),
        ]
        command = Command(
            argv=tuple(str(word) for word in argv), env=os.environ, cwd=self.directory
        )
        self.process = spawn(command, self.directory / "redis.log")
        wait_until(self._answers, 20, dump=(self.directory / "redis.log").read_text)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it and wait for the end; harmless when it does not run."""
        if self.process:
            self.process.send_signal(number)
            self.process.wait(20)
            self.process = None

    def flush(self) -> None:
        """Forget every key, and every user but our own, as a Redis without persistence does at a restart."""
        with self.client() as client:
            client.flushall()
            if nodes := set(client.acl_users()) - {"default", "server"}:
                client.acl_deluser(*nodes)

    def client(self) -> "redis.Redis":
        return redis.Redis.from_url(self.url, socket_timeout=10)

    def _answers(self) -> bool:
        if self.process and self.process.poll() is not None:
            raise RuntimeError((self.directory / "redis.log").read_text())
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


@dataclass
class PostgresServer:
    """A cluster in a directory; the user who runs it is not root, whoever runs the tests.

    durable: what was committed is there after a restart, however it ended (but not after the machine's).
    fsync: nor is it lost when the machine stops; as slow as production.
    """

    directory: Path
    port: int = field(default_factory=free_port)
    password: str = "database-password"
    durable: bool = False
    fsync: bool = False
    process: subprocess.Popen[bytes] | None = None

    def url(self, database: str = "prominence") -> str:
        return f"postgresql://prominence:{self.password}@{HOST}:{self.port}/{database}"

    def start(self) -> None:
        """Make the cluster, with a database `prominence`, and start it."""
        self._make_cluster()
        self.serve()
        self.create_database("prominence")

    def _make_cluster(self) -> None:
        self.directory.mkdir(parents=True)
        if os.getuid() == 0:
            user = pwd.getpwnam(_unprivileged_user())
            os.chown(self.directory, user.pw_uid, user.pw_gid)
        secret = self.directory / "password"
        secret.write_text(self.password)
        secret.chmod(0o644)  # the directory is private, and the password is worth nothing
        run(
            [
                *(*_as_other_user(), _postgres_program("initdb"), "--pgdata", self._data),
                *("--username", "prominence", "--pwfile", secret, "--auth", "scram-sha-256"),
                *("--encoding", "UTF8", "--no-locale", "--no-sync"),
            ],
            cwd=self.directory,
        )

    def serve(self) -> None:
        """Start the server on a cluster that is there; returns when it answers."""
        options = {
            "listen_addresses": HOST,
            "port": self.port,
            "unix_socket_directories": "",
            "fsync": "on" if self.fsync else "off",
            "synchronous_commit": "on" if self.durable else "off",
            "full_page_writes": "on" if self.fsync else "off",
            "max_connections": 200,
        }
        words = [f"--{name}={value}" for name, value in options.items()]
        argv = (*_as_other_user("--pdeathsig=INT"), _postgres_program("postgres"), *words)
        command = Command(
            argv=tuple(str(word) for word in (*argv, "-D", self._data)),
            env=os.environ,
            cwd=self.directory,
            death_signal=signal.SIGINT,
        )
        log = self.directory / "postgres.log"
        self.process = spawn(command, log)
        wait_until(self._answers, 30, dump=log.read_text)

    def stop(self) -> None:
        """End it without ceremony, as a crash would: its data are thrown away, or recovered by `serve`."""
        if self.process:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait(20)
            self.process = None

    def create_database(self, name: str) -> str:
        """Make a database and return its URL."""
        connection = psycopg2.connect(self.url("postgres"))
        connection.autocommit = True
        try:
            connection.cursor().execute(f'CREATE DATABASE "{name}"')
        finally:
            connection.close()
        return self.url(name)

    @property
    def _data(self) -> Path:
        return self.directory / "data"

    def _answers(self) -> bool:
        try:
            psycopg2.connect(self.url("postgres"), connect_timeout=2).close()
        except psycopg2.OperationalError:
            return False
        return True


def _redis_program(backend: str) -> Path:
    if backend == EMBEDDED:
        return find_program()
    found = shutil.which("redis-server")
    if not found:
        raise RuntimeError("redis-server is missing: run tests/setup/redis.sh as root")
    return Path(found)


def _postgres_program(name: str) -> Path:
    """Debian keeps the server's programs out of PATH, by version."""
    rooms = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    found = shutil.which("initdb")
    rooms += [Path(found).resolve().parent] if found else []
    for room in rooms:
        if (room / "initdb").exists():
            return room / name
    raise RuntimeError("PostgreSQL is missing: run tests/setup/postgresql.sh as root")


def _as_other_user(*options: str) -> tuple[str, ...]:
    """The beginning of a command that shall not run as root, because PostgreSQL refuses to."""
    if os.getuid() != 0:
        return ()
    return ("setpriv", f"--reuid={_unprivileged_user()}", "--clear-groups", *options, "--")


def _unprivileged_user() -> str:
    names = {user.pw_name for user in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"
