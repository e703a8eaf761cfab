"""Bare Celery: its own Redis (append-only file on, as ours), prefork with two processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from celery import Celery

from prominence.embedded.processes import Command, spawn
from tests.bench import meter
from tests.servers import PRODUCTION, RedisServer
from tests.stack import PROJECT
from tests.wait import wait_until


class CeleryPeer:
    """A context manager."""

    def __init__(self, room: Path) -> None:
        self._room = room
        self._redis = RedisServer(room / "celery-redis", backend=PRODUCTION)
        self._worker: subprocess.Popen[bytes] | None = None
        self._rounds = 0

    def __enter__(self) -> "CeleryPeer":
        self._redis.start()
        self._app: Any = Celery("peer", broker=self._redis.url)
        argv = (
            *(sys.executable, "-m", "celery", "-A", "tests.bench.peers.celery_app", "worker"),
            *("-P", "prefork", "-c", "2", "-l", "WARNING", "-n", "peer@bench"),
            *("--without-gossip", "--without-mingle", "--without-heartbeat"),
        )
        environment = os.environ | {"BENCH_BROKER": self._redis.url, "C_FORCE_ROOT": "1"}
        log = self._room / "celery.log"
        self._worker = spawn(Command(argv=argv, env=environment, cwd=PROJECT), log)
        mark = self._room / "celery-ready"
        self._app.send_task("ready", (str(mark),))
        wait_until(mark.exists, 60, dump=log.read_text)
        return self

    def __exit__(self, *_: object) -> None:
        self._app.close()
        if self._worker:
            self._worker.send_signal(signal.SIGTERM)
            try:
                self._worker.wait(15)
            except subprocess.TimeoutExpired:
                self._worker.kill()
                self._worker.wait()
        self._redis.stop()

    def rate(self, jobs: int, per_message: int) -> tuple[float, float]:
        """Jobs a second from the first `send_task` to the last end, and CPU ms a job."""
        self._rounds += 1
        ends = self._room / f"celery-ends-{self._rounds}"
        ends.touch()
        before, begun = self._spent(), time.monotonic()
        for _ in range(jobs // per_message):
            self._app.send_task("run", (per_message, str(ends)))
        wanted = jobs // per_message * per_message
        wait_until(lambda: ends.stat().st_size >= wanted, 600)
        seconds = time.monotonic() - begun
        return wanted / seconds, 1e3 * (self._spent() - before) / wanted

    def start_latency(self, argv: list[str], mark: Path) -> float:
        """Seconds from `send_task` to the start of the program, which writes when it was into `mark`."""
        begun = time.time()
        self._app.send_task("stamp", (argv,))
        wait_until(lambda: mark.exists() and mark.read_text().endswith("\n"), 30)
        return int(mark.read_text().split()[0]) / 1e9 - begun

    def _spent(self) -> float:
        assert self._worker
        assert self._redis.process
        pids = [*meter.tree(self._worker.pid, meter.children()), self._redis.process.pid]
        return sum(map(meter.cpu_s, pids)) + time.process_time()
